"""The judge of the fault drills finds what it is there to find, and nothing where nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.journal import OWN, Contributed, Journal, Predicted

SHARED = "shared-1"


def contributed(number: int, label: str = SHARED) -> Contributed:
    return Contributed("ann", label, f"digest-{number}")


def sample(number: int) -> dict[str, Any]:
    return {"id": f"id-{number}", "digest": f"digest-{number}"}


def erasure(*prompts: str | None) -> dict[str, Any]:
    return {"id": "erasure-1", "clusters": [{"prompt_before": prompt} for prompt in prompts]}


def predicted(started: float, *, prompts: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> Predicted:
    return Predicted(started, started + 0.1, 0, frozenset(prompts), frozenset(labels), 0)


@pytest.fixture
def journal() -> Journal:
    """Samples 0 to 3 are acknowledged, 4 is not; 0 was erased at 10.0, and with it its label and the prompt `old`."""
    made = Journal()
    for number in range(5):
        made.sending(contributed(number, f"{OWN}0" if number == 0 else SHARED))
    for number in range(4):
        made.acknowledged(sample(number))
    made.accepted(erasure("old", None), made.asking(["id-0"]), began=9.5, now=10.0)
    return made


def test_a_service_that_keeps_its_word_is_cleared(journal: Journal) -> None:
    journal.predicted(predicted(9.9, prompts=("old",), labels=(f"{OWN}0",)))  # asked before, answered after
    journal.predicted(predicted(10.5, prompts=("new",), labels=(SHARED,)))
    assert journal.withdrawn_answers() == []
    for unknown in ([], [sample(4)]):  # the request without an answer may have been carried out
        listed = [sample(1), sample(2), sample(3), *unknown]
        assert journal.contradictions(listed=listed, stored={one["id"] for one in listed}) == []
    assert journal.lost_erasures([{"id": "erasure-1", "state": "completed"}]) == []


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (predicted(10.01, prompts=("new", "old")), "with prompt old, asked 0.010 s after erasure erasure-1"),
        (predicted(12.0, labels=(SHARED, f"{OWN}0")), f"with label {OWN}0, asked 2.000 s after"),
    ],
    ids=["prompt", "label"],
)
def test_a_withdrawn_answer_is_found(journal: Journal, late: Predicted, words: str) -> None:
    journal.predicted(late)
    (found,) = journal.withdrawn_answers()
    assert words in found


def test_an_erasure_that_is_answered_twice_counts_from_its_first_answer(journal: Journal) -> None:
    journal.accepted(erasure("old"), {}, began=19.0, now=20.0)
    journal.predicted(predicted(15.0, prompts=("old",)))
    assert len(journal.withdrawn_answers()) == 1


@pytest.mark.parametrize(
    ("listed", "stored", "words"),
    [
        ((1, 2), (1, 2), "sample id-3 was acknowledged, and is lost"),
        ((1, 2, 3), (1, 2), "sample id-3 is held without its file"),
        ((0, 1, 2, 3), (0, 1, 2, 3), "sample id-0 was erased, and is held"),
        ((1, 2, 3), (0, 1, 2, 3), "sample id-0 was erased, and its file is kept"),
        ((1, 2, 3, 9), (1, 2, 3, 9), "sample id-9 was never sent"),
    ],
)
def test_a_broken_word_is_found(journal: Journal, listed: tuple[int, ...], stored: tuple[int, ...], words: str) -> None:
    found = journal.contradictions(listed=[sample(i) for i in listed], stored={f"id-{i}" for i in stored})
    assert words in found


def test_a_sample_whose_erasure_got_no_answer_may_be_held_or_not(journal: Journal) -> None:
    journal.asking(["id-1"])
    for listed in ([sample(2), sample(3)], [sample(1), sample(2), sample(3)]):
        assert journal.contradictions(listed=listed, stored={one["id"] for one in listed}) == []
    journal.complain("DELETE /samples/id-1: 404")
    assert journal.contradictions(listed=[], stored=set())[0] == "DELETE /samples/id-1: 404"


@pytest.mark.parametrize("listed", [[], [{"id": "erasure-1", "state": "withdrawn"}]], ids=["unknown", "unfinished"])
def test_a_lost_erasure_is_found(journal: Journal, listed: list[dict[str, Any]]) -> None:
    assert len(journal.lost_erasures(listed)) == 1

"""The demo's proof: equal digests are told in a sentence, anything else is an error that says what differs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from service.cli import demo
from service.cli.demo_proof import NotProven, ServiceDigests, compare, learned_by
from service.cli.digits import digits
from tests import documents

LEARNED = ServiceDigests(1192, frozenset({"a", "b", "c"}), "sums")


class FakeClient:
    """Answers as a service at rest does."""

    key = "key"

    def __init__(self, learned: ServiceDigests, *, counted: list[int] | None = None, unsettled: int = 0) -> None:
        self.learned = learned
        self.unsettled = unsettled  # so many times its lambda and temperature are yet to be chosen
        self.counted = counted if counted is not None else [learned.samples]

    def request(self, method: str, path: str, **_: Any) -> Mapping[str, Any]:
        assert (method, path) == ("GET", "/status")
        counted = self.counted.pop(0) if len(self.counted) > 1 else self.counted[0]
        self.unsettled -= 1
        settled = self.unsettled < 0
        digest = self.learned.closed_form if settled else "of the constants"
        tier = {"digest": digest, "samples": counted, "settled": settled} if counted >= 0 else None
        return {"samples": self.learned.samples, "closed_form": tier, "clusters": {"serving": 3}}

    def pages(self, path: str) -> list[dict[str, Any]]:
        assert path == "/clusters"
        served = [{"prompt": {"digest": digest}} for digest in self.learned.prompts]
        return [*served, {"prompt": None}]


def test_readme_quotes_the_sentence_that_the_demo_ends_with() -> None:
    learned = ServiceDigests(1192, frozenset(map(str, range(13))), "sums")
    assert f"\n> {compare(learned, learned, forgotten=demo.FORGOTTEN)}\n" in documents.text_of(documents.README)


def test_equal_digests_are_told_in_a_sentence() -> None:
    words = compare(LEARNED, LEARNED, forgotten="hana")
    assert "never saw hana" in words
    assert "the other 1,192 digits in the same order" in words
    assert "All 3 prompts and the closed-form sums of the two have equal SHA-256 digests" in words


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(LEARNED, samples=1193), "the numbers of samples (1192 and 1193)"),
        (replace(LEARNED, prompts=frozenset({"a", "b", "d"})), "2 digests of prompts"),
        (replace(LEARNED, prompts=frozenset({"a", "b"})), "1 digests of prompts"),
        (replace(LEARNED, closed_form="others"), "the digests of the closed-form sums"),
    ],
)
def test_any_difference_is_no_proof(other: ServiceDigests, words: str) -> None:
    with pytest.raises(NotProven, match="Not equal to a service that never saw hana") as raised:
        compare(LEARNED, other, forgotten="hana")
    assert words in raised.value.detail


def test_two_services_that_have_learned_nothing_prove_nothing() -> None:
    nothing = ServiceDigests(0, frozenset(), "sums")
    with pytest.raises(NotProven, match="no prompt"):
        compare(nothing, nothing, forgotten="hana")


def test_the_closed_form_is_asked_once_it_holds_what_the_service_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.demo_proof.POLL_SECONDS", 0.0)
    client: Any = FakeClient(LEARNED, counted=[-1, 1200, 1192])
    assert learned_by(client) == LEARNED
    choosing: Any = FakeClient(LEARNED, unsettled=3)
    assert learned_by(choosing) == LEARNED
    behind: Any = FakeClient(LEARNED, counted=[1200])
    with pytest.raises(NotProven, match="closed-form sums"):
        learned_by(behind, patience=0.0)


def test_the_demo_ends_with_an_error_where_the_second_service_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "wait_until_trained", lambda client, title: None)
    first: Any = FakeClient(LEARNED)
    second: Any = FakeClient(replace(LEARNED, closed_form="others"))
    with pytest.raises(NotProven):
        demo._prove(first, second)


def test_the_second_service_is_given_what_the_others_gave() -> None:
    cast = demo._Cast(*digits(demo.PEOPLE, demo.FORGOTTEN))
    assert len(cast.share) == 8
    assert cast.others == [digit for digit in cast.contributed if digit.owner != demo.FORGOTTEN]

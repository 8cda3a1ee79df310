"""`oubli quality`: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.answering import Request, answering, said
from tests.commands import HIDDEN, ODD, Done, assert_one_line, command

REPORT: dict[str, Any] = {
    "state": "ready", "samples": 12_345, "digest": "ab" * 32, "ridge": 0.03,
    "temperature": 0.07, "chosen_from": 2048, "as_of": "2026-11-29T10:00:00Z",
    "computed_at": "2026-11-29T10:00:07Z", "added_since": 0, "accuracy": 0.81234, "calibration_error": 0.0456,
    "reliability": [{"confidence": 0.55, "accuracy": 0.5, "samples": 2345}, {"confidence": 0.97, "accuracy": 0.95,
                    "samples": 10_000}],
    "labels": [{"label": "gnu", "samples": 345, "recall": 0.9, "precision": None},
               {"label": ODD, "samples": 12_000, "recall": 0.25, "precision": 0.875}],
    "confusion": [{"label": ODD, "predicted": HIDDEN, "samples": 1234}],
    "evaluation": {"state": "none"},
}  # fmt: skip
EVALUATION: dict[str, Any] = {
    **{name: REPORT[name] for name in ("as_of", "computed_at", "reliability", "confusion", "digest")},
    "state": "ready", "samples": 77, "also_learned": 0, "learned": 4321, "added_since": 0, "accuracy": 0.7654,
    "interval": [0.7001, 0.8111], "calibration_error": 0.0987, "unknown_labels": [],
    "labels": [{"label": "emu", "samples": 77, "recall": 0.5, "precision": 0.5}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OUBLI_URL", raising=False)
    monkeypatch.setenv("OUBLI_DATA_DIR", str(tmp_path))


@contextmanager
def asked(answer: dict[str, Any], *arguments: str) -> Iterator[Done]:
    paths = []

    def answered(request: Request) -> Any:
        paths.append((request.method, request.path))
        return said(answer)

    with answering(answered) as url:
        yield command("quality", *arguments, "--url", url)
    assert paths == [("GET", "/quality")]


def test_a_report_is_told_in_tables_worst_label_first() -> None:
    with asked(REPORT) as done:
        assert done.code == 0, done
    for words in (
        "12,345 as of 2026-11-29T10:00:00Z",
        "0.8123",
        "0.0456",
        "ab" * 32,
        "0.970",
        "0.950",
        "10,000",
        "lambda 0.03, temperature 0.07, chosen from 2,048 samples",
    ):
        assert words in done.out
    assert "added since" not in done.out
    assert done.out.index(ODD) < done.out.index("gnu ")  # shown as they are, and recognised worst
    (row,) = (line for line in done.out.splitlines() if " gnu " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["gnu", "345", "0.900", "-"]
    assert r"\x1b[2J\x07\u202e" in done.out
    assert HIDDEN not in done.out


def test_what_came_since_is_told() -> None:
    with asked({**REPORT, "added_since": 2000}) as done:
        assert ", 2,000 added since" in done.out


def test_the_evaluation_set_is_told_beside_it_with_what_it_cannot_say() -> None:
    with asked({**REPORT, "evaluation": EVALUATION}) as done:
        assert done.code == 0, done
    for words in (
        "evaluation set",
        "77 as of",
        "0.7654 (95 %: 0.7001 to 0.8111)",
        "0.0987",
        "of 4,321 samples",
        " emu ",
    ):
        assert words in done.out
    assert "not counted" not in done.out
    assert "not learned" not in done.out
    odd = {"also_learned": 12, "unknown_labels": ["gnu", HIDDEN]}
    with asked({**REPORT, "evaluation": {**EVALUATION, **odd}}) as done:
        assert "12: the closed form has learned from the same pictures" in done.out
        assert r"gnu, \x1b[2J\x07\u202e" in done.out
    nothing = {"samples": 0, "accuracy": None, "interval": None, "calibration_error": None, "labels": []}
    with asked({**REPORT, "evaluation": {**EVALUATION, **nothing, "also_learned": 12}}) as done:
        assert (done.code, "95 %" in done.out) == (0, False)


@pytest.mark.parametrize(("state", "words"), [("none", "--role evaluation"), ("waiting", "not measured yet")])
def test_without_a_report_of_the_evaluation_set_there_are_words(state: str, words: str) -> None:
    with asked({**REPORT, "evaluation": {"state": state}}) as done:
        assert words in done.out


def test_of_many_labels_and_pairs_the_worst_are_told() -> None:
    labels = [{"label": f"label-{i:03}", "samples": 9, "recall": i / 1000, "precision": 0.5} for i in range(1000)]
    pairs = [{"label": f"own-{i}", "predicted": "x", "samples": 100 - i} for i in range(100)]
    with asked({**REPORT, "labels": labels, "confusion": pairs}) as done:
        assert "20 of 1,000" in done.out
    assert ("label-000" in done.out, "label-019" in done.out, "label-020" in done.out) == (True, True, False)
    assert ("own-0" in done.out, "own-9" in done.out, "own-10" in done.out) == (True, True, False)


@pytest.mark.parametrize(
    ("state", "words"), [("waiting", "Not computed yet"), ("off", "quality.enabled"), ("new", "new")]
)
def test_without_a_report_there_are_words(state: str, words: str) -> None:
    with asked({**dict.fromkeys(REPORT), "state": state, "evaluation": {"state": "none"}}) as done:
        assert done.code == 0
        assert words in done.out


def test_programs_get_the_answer_as_it_is() -> None:
    for answer in (REPORT, {**dict.fromkeys(REPORT), "state": "waiting"}):
        with asked(answer, "--json") as done:
            assert (done.code, json.loads(done.out)) == (0, answer)


def test_an_answer_without_what_is_told_is_not_oubli_s() -> None:
    with asked({"state": "ready"}) as done:
        assert_one_line(done, "says nothing of", code=1)

from __future__ import annotations

from benchmarks.serving.deletions import violations, withdrawn_after

GONE = [(10.0, 10.2, [("c", "old")])]  # sent, answered, what was withdrawn


def test_only_what_is_asked_after_the_answer_is_a_violation() -> None:
    before = [9.0, 9.5, [["c", "old"]]]
    meanwhile = [10.1, 10.4, [["c", "old"]]]
    after = [10.3, 10.5, [["c", "old"], ["c", "old"], ["d", "other"]]]
    assert violations([before, meanwhile], GONE) == 0
    assert violations([before, meanwhile, after], GONE) == 2


def test_withdrawal_is_timed_from_the_request_to_the_first_answer_without_the_prompt() -> None:
    events = [[10.0, 10.5, [["c", None]]], [9.0, 9.5, [["c", "old"]]], [10.0, 10.3, [["c", "old"]]]]
    assert withdrawn_after(events, GONE) == [0.5]


def test_a_prompt_that_has_answered_nothing_has_no_time_to_withdraw() -> None:
    assert withdrawn_after([[9.0, 9.5, [["c", None]]], [10.0, 10.5, [["c", None]]]], GONE) == []

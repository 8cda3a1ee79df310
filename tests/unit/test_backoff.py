from __future__ import annotations

from datetime import timedelta

import pytest

from service.errors import Misconfigured
from service.registry.backoff import Backoff
from service.settings import Settings, load_settings

BACKOFF = Backoff(first=timedelta(seconds=10), longest=timedelta(days=1))


def test_pauses_double_up_to_the_longest() -> None:
    seconds = [BACKOFF.pause(setbacks).total_seconds() for setbacks in range(6)]
    assert seconds == [0, 0, 10, 20, 40, 80]
    assert BACKOFF.pause(10_000) == timedelta(days=1)


def test_a_prompt_is_on_probation_for_as_long_as_it_was_waited_for() -> None:
    assert [BACKOFF.probation(setbacks).total_seconds() for setbacks in (0, 1, 2, 3)] == [10, 10, 10, 20]


def test_without_a_setting_a_cluster_waits_a_day_at_most() -> None:
    assert Settings().erasure.complete_within == 86_400
    assert Settings().erasure_due_days == 30


@pytest.mark.parametrize("days", ["1", "3", "30"])
def test_no_cluster_waits_until_an_erasure_is_nearly_due(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    half = 43_200 * int(days)
    monkeypatch.setenv("OUBLI_ERASURE_DUE_DAYS", days)
    monkeypatch.setenv("OUBLI_ERASURE__COMPLETE_WITHIN", str(half))
    assert load_settings().erasure.complete_within == half
    monkeypatch.setenv("OUBLI_ERASURE__COMPLETE_WITHIN", str(half + 1))
    with pytest.raises(Misconfigured, match="complete_within must be at most half of erasure_due_days"):
        load_settings()

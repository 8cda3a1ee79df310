from __future__ import annotations

from datetime import timedelta

import pytest

from service.errors import Misconfigured
from service.registry.backoff import Backoff
from service.settings import load_settings

BACKOFF = Backoff(first=timedelta(seconds=10), longest=timedelta(days=1))


def test_pauses_double_up_to_the_longest() -> None:
    seconds = [BACKOFF.pause(setbacks).total_seconds() for setbacks in range(6)]
    assert seconds == [0, 0, 10, 20, 40, 80]
    assert BACKOFF.pause(10_000) == timedelta(days=1)


def test_a_prompt_is_on_probation_for_as_long_as_it_was_waited_for() -> None:
    assert [BACKOFF.probation(setbacks).total_seconds() for setbacks in (0, 1, 2, 3)] == [10, 10, 10, 20]


@pytest.mark.parametrize("days", ["1", "2"])
def test_no_cluster_waits_until_an_erasure_is_overdue(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    monkeypatch.setenv("OUBLI_ERASURE_DUE_DAYS", days)
    monkeypatch.setenv("OUBLI_ERASURE__COMPLETE_WITHIN", str(86_400 * int(days)))
    assert load_settings().erasure.complete_within == 86_400 * int(days)
    monkeypatch.setenv("OUBLI_ERASURE__COMPLETE_WITHIN", str(86_400 * int(days) + 1))
    with pytest.raises(Misconfigured, match="complete_within must not be longer than erasure_due_days"):
        load_settings()

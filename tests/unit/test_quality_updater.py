"""When a replica computes its quality report: once changes are quiet, or have gone on for long; never for nothing."""

import os
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.registry.records import Marks
from service.serving.quality_updater import NICE, PATIENCE, QualityUpdater
from service.settings import Settings


@dataclass
class Reports:
    """A stand-in for `Quality`: what is computed, and at which marks."""

    now: Marks = field(default_factory=lambda: Marks(2, 0))
    computed: list[Marks] = field(default_factory=list)
    works: bool = True
    stopped: bool = False

    def marks(self) -> Marks:
        return self.now

    def is_done(self, now: Marks) -> bool:
        return self.works and bool(self.computed) and self.computed[-1].removals == now.removals

    def compute(self) -> Any:
        self.computed.append(self.now)
        return type("Measured", (), {"marks": self.now}) if self.works else None

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def updater(reports: Reports) -> QualityUpdater:
    settings = Settings(
        quality={"settle_seconds": 5, "settle_max_seconds": 60}, worker={"heartbeat_seconds": 0.01, "lease_seconds": 1}
    )
    return QualityUpdater(reports, settings)  # type: ignore[arg-type]


def looks(updater: QualityUpdater, *times: float) -> list[bool]:
    return [updater.look(1000.0 + seconds) for seconds in times]


def test_after_the_start_it_computes_once_it_has_been_quiet(updater: QualityUpdater, reports: Reports) -> None:
    assert looks(updater, 0, 4.9, 5.0, 8.0, 500.0) == [False, False, True, False, False]
    assert reports.computed == [Marks(2, 0)]


@pytest.mark.parametrize("change", [Marks(3, 0), Marks(2, 1)])
def test_a_change_is_computed_once_it_has_been_quiet(updater: QualityUpdater, reports: Reports, change: Marks) -> None:
    looks(updater, 0, 5)
    reports.now = change
    assert looks(updater, 100, 103, 105, 106, 300) == [False, False, True, False, False]
    assert reports.computed == [Marks(2, 0), change]


def test_each_change_puts_it_off(updater: QualityUpdater, reports: Reports) -> None:
    looks(updater, 0, 5)
    for seconds in (100, 104, 108):
        reports.now = Marks(reports.now.additions + 1, 0)
        assert looks(updater, seconds) == [False]
    assert looks(updater, 112.9, 113) == [False, True]


def test_changes_that_never_end_do_not_put_it_off_for_ever(updater: QualityUpdater, reports: Reports) -> None:
    looks(updater, 0, 5)
    done = []
    for seconds in range(100, 240):
        reports.now = Marks(reports.now.additions + 1, 0)
        done += [seconds] if looks(updater, seconds) == [True] else []
    assert done == [160, 221]


def test_a_report_of_later_marks_than_were_seen_is_not_computed_again(
    updater: QualityUpdater, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples came between the look and the sums, and are counted."""
    seen = iter([Marks(2, 0), Marks(2, 0)])
    reports.now = Marks(4, 0)
    monkeypatch.setattr(reports, "marks", lambda: next(seen, Marks(4, 0)))
    assert looks(updater, 0, 5, 6, 12, 100) == [False, True, False, False, False]


def test_without_success_it_is_tried_again_with_patience(updater: QualityUpdater, reports: Reports) -> None:
    reports.works = False
    looks(updater, 0, 5)
    assert looks(updater, 6, 64.9, 5 + PATIENCE, 66, 5 + 2 * PATIENCE) == [False, False, True, False, True]
    reports.works = True
    reports.now = Marks(3, 0)
    assert looks(updater, 200, 205) == [False, True]


def test_its_thread_gives_way_outlives_a_failure_and_ends(
    updater: QualityUpdater, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, nice = threading.Event(), []
    failures = [ConnectionError("the registry is away")]

    def marks() -> Marks:
        if failures:
            raise failures.pop()
        if sys.platform == "linux":
            nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        looked.set()
        return reports.now

    monkeypatch.setattr(reports, "marks", marks)
    updater.start()
    assert looked.wait(60)
    updater.stop()
    assert reports.stopped
    assert not updater._thread.is_alive()
    if sys.platform == "linux":
        assert set(nice) == {min(os.getpriority(os.PRIO_PROCESS, 0) + NICE, 19)}


def test_updaters_that_share_a_turn_compute_one_after_the_other(reports: Reports, updater: QualityUpdater) -> None:
    """Leave-one-out and the evaluation set together use the share of a core that is allowed."""
    others = Reports()
    other = QualityUpdater(others, Settings(quality={"settle_seconds": 0}), turn=updater.turn)  # type: ignore[type-var]
    with updater.turn:
        thread = threading.Thread(target=other.look, args=(1000.0,))
        thread.start()
        thread.join(0.2)
        assert (thread.is_alive(), others.computed) == (True, [])
    thread.join(60)
    assert others.computed == [Marks(2, 0)]
    assert reports.computed == []

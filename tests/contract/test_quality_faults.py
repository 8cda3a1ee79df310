"""A quality report that cannot be computed, or not now: no report, and the reason in the log."""

from __future__ import annotations

import pytest

from models.quality import QualityReport
from service.registry import samples
from service.serving import quality as quality_module
from service.serving.closed_form import ClosedFormTier
from service.serving.quality import Quality
from tests.replicas import first, start
from tests.reports import give, quality_of, while_reading
from tests.world import MakeWorld, World


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows 30 samples of three labels; nothing is trained."""
    give(world, 30)
    return start(world)


@pytest.fixture
def quality(tier: ClosedFormTier) -> Quality:
    return quality_of(tier)


def test_while_the_tier_is_lost_there_is_none(world: World, tier: ClosedFormTier, quality: Quality) -> None:
    tier.leave()
    assert quality.compute() is None


def test_a_damaged_sample_is_told_and_no_report_is_made_without_it(
    world: World, quality: Quality, caplog: pytest.LogCaptureFixture
) -> None:
    name = samples.object_name(first(world).id)
    path = world.file_of(name)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-3])
    assert quality.compute() is None
    (record,) = caplog.records
    assert name in record.message
    assert "cannot be computed now" in record.message


def test_one_that_stops_ends_the_computation_and_begins_no_other(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_module, "CHUNK", 10)
    while_reading(monkeypatch, tier, quality.stop)
    assert quality.compute() is None
    assert quality.compute() is None


def test_after_each_portion_it_leaves_the_core_to_others(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(quality={"share": 0.25})
    give(world, 30)
    quality = quality_of(start(world))
    monkeypatch.setattr(quality_module, "CHUNK", 10)
    times, pauses = iter(range(100)), []
    monkeypatch.setattr("service.serving.quality.time.perf_counter", lambda: float(next(times)))
    monkeypatch.setattr(quality._outdated, "wait", pauses.append)
    measured = quality.compute()
    assert pauses == [3.0, 3.0, 3.0]  # each after one second of work
    assert measured is not None
    assert isinstance(measured.report, QualityReport)

"""What a replica says of the evaluation set: by the head that answers, of pictures that are not learned from."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from models.quality import interval
from service.core.intake import NewSample
from service.registry import descriptions, samples
from service.registry.records import Role
from service.serving import quality as quality_module
from service.serving.closed_form import ClosedFormTier
from service.serving.held_out import HeldOut, HeldOutMeasured
from service.serving.quality import Quality
from tests.replicas import digest, erase_first, fall_silent, is_stored, live_replicas, start
from tests.reports import LABELS, erase_while_computing, give, held_out_of, quality_of, while_reading
from tests.world import World, accepted, opened

EVALUATION: Role = "evaluation"


def hold_out(world: World, count: int, seed: int = 1) -> list[NewSample]:
    """So many evaluation samples of three labels."""
    chance = random.Random(seed)
    given = [world.new_sample(chance.choice(LABELS), "eve", EVALUATION) for _ in range(count)]
    for found in world.take_in(given):
        accepted(found)
    return given


def first_held_out(world: World) -> str:
    return next(iter(world.held_out))


def is_right(world: World, measured: HeldOutMeasured | None) -> bool:
    """Whether it is the report of all that survives, as computed from nothing."""
    assert measured is not None
    return (measured.digest, measured.learned, measured.report) == (
        world.closed_form_digest(),
        len(world.survivors),
        world.held_out_report(),
    )


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows 30 samples of three labels, and 20 evaluation samples; nothing is trained."""
    give(world, 30)
    hold_out(world, 20)
    return start(world)


@pytest.fixture
def held_out(tier: ClosedFormTier) -> HeldOut:
    return held_out_of(tier)


def compute(held_out: HeldOut) -> HeldOutMeasured | None:
    measured = held_out.compute()
    assert measured is None or isinstance(measured, HeldOutMeasured)
    return measured


# --------------------------------------------------------------------------------------------------------- the report


def test_it_is_what_the_head_that_answers_says_of_them(world: World, tier: ClosedFormTier, held_out: HeldOut) -> None:
    assert held_out.current() is None
    assert not held_out.is_done(held_out.marks())
    measured = compute(held_out)
    assert is_right(world, measured)
    assert measured is not None
    assert measured.digest == digest(tier)
    assert (measured.report.samples, measured.also_learned, measured.unknown_labels) == (20, 0, ())
    low, high = measured.report.interval
    assert 0 <= low < measured.report.accuracy < high <= 1
    assert (measured.as_of, measured.computed_at) == (world.time(), world.time())
    assert held_out.current() is measured
    assert held_out.is_done(held_out.marks())


def test_without_an_evaluation_set_there_is_nothing_to_do(world: World, caplog: pytest.LogCaptureFixture) -> None:
    give(world, 5)
    held_out = held_out_of(start(world))
    assert held_out.compute() is None
    assert held_out.is_done(held_out.marks())
    assert (held_out.size(), caplog.records) == (0, [])


def test_before_anything_is_learned_there_is_no_report(world: World, caplog: pytest.LogCaptureFixture) -> None:
    hold_out(world, 3)
    held_out = held_out_of(start(world))
    assert held_out.compute() is None
    assert not held_out.is_done(held_out.marks())
    give(world, 1)
    assert is_right(world, compute(held_out))
    assert caplog.records == []


def test_a_label_that_is_not_learned_counts_as_wrong_and_is_said(world: World, held_out: HeldOut) -> None:
    world.take_in([world.new_sample("gnu", "eve", EVALUATION), world.new_sample("yak", "eve", EVALUATION)])
    measured = compute(held_out)
    assert is_right(world, measured)
    assert measured is not None
    assert measured.unknown_labels == ("gnu", "yak")
    recalls = {one.label: (one.samples, one.recall) for one in measured.report.labels}
    assert (recalls["gnu"], recalls["yak"]) == ((1, 0.0), (1, 0.0))


@pytest.mark.parametrize("learned_first", [True, False])
def test_a_picture_that_is_learned_as_well_is_counted_apart_while_it_is(world: World, learned_first: bool) -> None:
    """Whichever came first, of whichever owner, under whatever label; it counts again once the other is erased."""
    give(world, 10)
    hold_out(world, 4)
    picture = world.new_sample("cat", "bob")
    both = [picture, replace(picture, label="dog", owner="eve", role=EVALUATION)]
    for one in both if learned_first else reversed(both):
        world.take_in([one])
    held_out = held_out_of(start(world))
    measured = compute(held_out)
    assert is_right(world, measured)
    assert measured is not None
    assert (measured.report.samples, measured.also_learned) == (4, 1)
    world.erase_owner("bob")
    measured = compute(held_out)
    assert is_right(world, measured)
    assert measured is not None
    assert (measured.report.samples, measured.also_learned) == (5, 0)


def test_if_every_picture_is_learned_nothing_is_said_but_that(world: World) -> None:
    given = give(world, 6)
    world.take_in([replace(one, role=EVALUATION) for one in given])
    measured = compute(held_out_of(start(world)))
    assert measured is not None
    assert (measured.report.samples, measured.also_learned, measured.report.interval) == (0, 6, (0.0, 1.0))


def test_one_that_waits_to_be_described_anew_is_waited_for(
    world: World, held_out: HeldOut, caplog: pytest.LogCaptureFixture
) -> None:
    with world.context.registry.write() as session:
        descriptions.note(session, [first_held_out(world)], None)
    assert held_out.compute() is None
    assert caplog.records == []
    with world.context.registry.write() as session:
        descriptions.note(session, [first_held_out(world)], world.context.backbone.kind.name)
    assert is_right(world, compute(held_out))


def test_a_damaged_one_is_told_and_no_report_is_made_without_it(
    world: World, held_out: HeldOut, caplog: pytest.LogCaptureFixture
) -> None:
    name = samples.object_name(first_held_out(world))
    world.context.store.delete(name)
    assert held_out.compute() is None
    (record,) = caplog.records
    assert name in record.message


def test_few_samples_say_little() -> None:
    assert interval(0, 0) == (0.0, 1.0)
    for right, count in ((3, 3), (0, 3), (1, 2), (800, 1000), (1, 100_000)):
        theirs = binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert interval(right, count) == pytest.approx((theirs.low, theirs.high))


# ----------------------------------------------------------------------------------------------- additions, erasures


def test_additions_leave_it_true_of_what_it_names(world: World, held_out: HeldOut) -> None:
    before = compute(held_out)
    assert before is not None
    give(world, 5, seed=2)
    assert held_out.current() is before
    assert before.report == world.held_out_report(first=30)
    hold_out(world, 3, seed=2)
    assert held_out.current() is before
    assert held_out.marks().additions - before.marks.additions == 8
    assert is_right(world, compute(held_out))


def test_an_erasure_of_either_kind_ends_it_with_its_transaction(world: World, held_out: HeldOut) -> None:
    for victim in (first_held_out(world), next(iter(world.survivors))):
        assert compute(held_out) is not None
        world.erase(victim)
        assert held_out.current() is None
        assert is_right(world, compute(held_out))


def test_an_erasure_from_the_evaluation_set_leaves_the_leave_one_out_report_alone(
    world: World, tier: ClosedFormTier
) -> None:
    quality = quality_of(tier)
    measured = quality.compute()
    assert measured is not None
    world.erase(first_held_out(world))
    hold_out(world, 2, seed=5)
    assert quality.current() is measured
    assert quality.marks() == measured.marks


@pytest.mark.parametrize("of", ["learned", "held out"])
@pytest.mark.parametrize("portion", [0, 1])
def test_an_erasure_while_it_is_computed_ends_the_computation(
    world: World, tier: ClosedFormTier, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch, of: str, portion: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(quality_module, "CHUNK", 10)
    victim = next(iter(world.survivors)) if of == "learned" else first_held_out(world)
    while_reading(monkeypatch, tier, lambda: world.erase(victim), after=portion)
    assert held_out.compute() is None
    assert held_out.current() is None
    assert caplog.records == []  # which is no fault
    assert is_right(world, compute(held_out))


def test_changes_between_the_look_and_the_head_end_the_computation(
    world: World, tier: ClosedFormTier, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head, the set, and what is learned as well must be of one moment."""
    catch_up = tier.catch_up
    for change in (lambda: give(world, 1, seed=8), lambda: hold_out(world, 1, seed=8), lambda: erase_first(world)):
        with monkeypatch.context() as patch:
            patch.setattr(tier, "catch_up", lambda change=change: (catch_up(), change())[0])
            assert held_out.compute() is None
        assert is_right(world, compute(held_out))


def test_a_head_for_the_meantime_is_not_measured(
    world: World, tier: ClosedFormTier, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase_first(world)
    with monkeypatch.context() as patch:
        patch.setattr(tier, "catch_up", tier.current)
        solved = tier.current()
        assert solved is not None
        patch.setattr(tier, "current", lambda: replace(solved, whole=False))
        patch.setattr(tier, "catch_up", lambda: replace(solved, whole=False))
        assert held_out.compute() is None
    assert is_right(world, compute(held_out))


@pytest.mark.parametrize("seed", range(2))
def test_after_any_additions_and_erasures_every_replica_reports_the_same(
    world: World, tmp_path: Path, seed: int
) -> None:
    """And so does a service that never saw what was erased."""
    chance = random.Random(seed)
    measuring = [held_out_of(start(world, name)) for name in ("one", "two")]
    given: list[NewSample] = []
    for turn in range(6):
        everything = [*world.survivors, *world.held_out]
        if len(everything) > 6 and chance.random() < 0.5:
            world.erase(*chance.sample(everything, chance.randint(1, 4)))
            assert [one.current() for one in measuring] == [None, None]
        else:
            given += give(world, chance.randint(2, 6), seed=turn) + hold_out(world, chance.randint(2, 6), seed=turn)
        for one in measuring:
            one._tier.keep()
        world.reconcile()
    reports = [compute(one) for one in measuring]
    assert all(is_right(world, report) for report in reports)
    left = {sample.digest for sample in (*world.survivors.values(), *world.held_out.values())}
    with opened(tmp_path / "never saw") as other:
        other.take_in([one for one in given if one.digest in left])
        theirs = compute(held_out_of(start(other)))
    assert theirs is not None
    assert all(report is not None and report.report == theirs.report for report in reports)


# ------------------------------------------------------------------------------------------------- memory and replicas


def test_an_erasure_is_completed_once_every_live_replica_has_let_go(world: World, tier: ClosedFormTier) -> None:
    held_out, other = held_out_of(tier), start(world, "other")
    other_held_out = held_out_of(other)
    other.report()
    assert held_out.compute() is not None
    assert other_held_out.compute() is not None
    victim = world.held_out[first_held_out(world)]
    erasure = world.erase(victim.id)
    tier.keep()
    world.reconcile()
    assert (is_stored(world, victim), world.erasure(erasure.id).state) == (True, "withdrawn")
    assert other.keep()  # more may be deleted now
    world.reconcile()
    world.reconcile()
    assert (is_stored(world, victim), world.erasure(erasure.id).state) == (False, "completed")
    assert not other.keep()


def test_one_that_has_just_started_has_let_go_of_nothing_yet(world: World, tier: ClosedFormTier) -> None:
    other = ClosedFormTier(world.context, name="other")
    assert other.start() is not None
    victim = world.held_out[first_held_out(world)]
    world.erase(victim.id)
    held_out_of(tier)
    tier.keep()
    world.reconcile()
    assert is_stored(world, victim)
    fall_silent(world)
    tier.keep()
    world.reconcile()
    assert not is_stored(world, victim)


def test_one_that_measures_nothing_is_not_waited_for(world: World, tier: ClosedFormTier) -> None:
    tier.report()
    assert live_replicas(world)["one"].evaluation_removals is None
    victim = world.held_out[first_held_out(world)]
    world.erase(victim.id)
    world.reconcile()
    assert not is_stored(world, victim)


def test_once_a_replica_has_reported_nothing_of_the_removed_is_in_its_memory(
    world: World, tier: ClosedFormTier, held_out: HeldOut
) -> None:
    measured = compute(held_out)
    assert measured is not None
    forgotten = weakref.ref(measured)
    del measured
    world.erase(first_held_out(world))
    tier.report()
    gc.collect()
    assert forgotten() is None
    assert live_replicas(world)["one"].evaluation_removals == 1


def test_a_replica_reports_an_erasure_only_after_the_computation_has_let_go(
    world: World, tier: ClosedFormTier, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = world.held_out[first_held_out(world)]
    tier.report()
    assert erase_while_computing(world, tier, held_out.compute, victim, monkeypatch) == (None, True, True)
    world.reconcile()
    assert not is_stored(world, victim)


def test_both_kinds_of_reports_are_let_go_of_as_the_application_asks(world: World, tier: ClosedFormTier) -> None:
    quality, held_out = Quality(world.context, tier), HeldOut(world.context, tier)
    tier.before_report, tier.let_go = quality.forget, held_out.let_go
    assert quality.compute() is not None
    assert held_out.compute() is not None
    erase_first(world)
    tier.keep()
    assert (quality._measured, held_out._measured) == (None, None)

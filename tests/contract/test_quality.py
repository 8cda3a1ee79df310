"""The quality report of a replica: of the survivors alone, at every moment, whatever is erased meanwhile."""

import gc
import random
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from models.closed_form import Sums, solve
from models.descriptor import Descriptor
from models.leave_one_out import LeaveOneOut
from service.registry.feed import Added
from service.serving import quality as quality_module
from service.serving.closed_form import ClosedFormTier
from service.serving.quality import Quality
from tests.replicas import digest, erase_first, first, is_stored, start
from tests.reports import LABELS, erase_while_computing, give, is_right, quality_of, while_reading
from tests.world import World, opened


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows 30 samples of three labels; nothing is trained."""
    give(world, 30)
    return start(world)


@pytest.fixture
def quality(tier: ClosedFormTier) -> Quality:
    return quality_of(tier)


# --------------------------------------------------------------------------------------------------------- the report


def test_a_report_is_what_the_survivors_alone_give(world: World, tier: ClosedFormTier, quality: Quality) -> None:
    assert quality.current() is None
    measured = quality.compute()
    assert is_right(world, measured)
    assert measured is not None
    assert measured.digest == digest(tier)
    assert (measured.as_of, measured.computed_at) == (world.time(), world.time())
    assert quality.current() is measured
    report = measured.report
    assert [label.label for label in report.labels] == LABELS
    assert sum(label.samples for label in report.labels) == sum(part.samples for part in report.reliability) == 30


def test_it_is_the_report_of_heads_that_never_saw_each_sample(world: World, quality: Quality) -> None:
    """The slow way: for each sample a service without it, asked for it."""
    everything = dict(world.survivors)
    right = 0
    for left_out in everything.values():
        world.survivors = {i: sample for i, sample in everything.items() if i != left_out.id}
        head = solve(world.accumulators(), ridge=world.context.closed_form.ridge)
        scores = head.scores(world.descriptors[left_out.digest][None], world.context.closed_form.temperature)
        right += head.labels[int(scores.argmax())] == left_out.label
    world.survivors = everything
    measured = quality.compute()
    assert measured is not None
    assert measured.report.accuracy == right / len(everything)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_additions_and_erasures_every_replica_reports_the_same(world: World, seed: int) -> None:
    chance = random.Random(seed)
    tiers = [start(world, "one"), start(world, "two")]
    qualities = [quality_of(tier) for tier in tiers]
    for turn in range(8):
        if len(world.survivors) > 3 and chance.random() < 0.5:
            world.erase(*chance.sample(list(world.survivors), chance.randint(1, 3)))
            assert [quality.current() for quality in qualities] == [None, None]
        else:
            give(world, chance.randint(2, 9), seed=turn)
        for quality in chance.sample(qualities, chance.randint(0, 2)):
            assert is_right(world, quality.compute())
        tiers[0].keep()
        world.reconcile()
    reports = [quality.compute() for quality in (*qualities, quality_of(start(world, "three")))]
    assert all(is_right(world, report) for report in reports)
    assert len({report.digest for report in reports if report is not None}) == 1


def test_a_service_that_never_saw_the_erased_reports_the_same(world: World, tmp_path: Path) -> None:
    chance = random.Random(7)
    given = give(world, 60)
    quality = quality_of(start(world))
    assert quality.compute() is not None
    world.erase(*chance.sample(list(world.survivors), 17))
    digests = {sample.digest for sample in world.survivors.values()}
    left = [new_sample for new_sample in given if new_sample.digest in digests]
    chance.shuffle(left)
    with opened(tmp_path / "never saw") as never_saw:
        never_saw.take_in(left)
        ours, theirs = quality.compute(), quality_of(start(never_saw)).compute()
    assert ours is not None
    assert theirs is not None
    assert ours.digest == theirs.digest == world.closed_form_digest()
    assert ours.report == theirs.report


def test_every_replica_counts_in_the_same_order(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the samples are, not by when they came: last bits depend on which are multiplied together."""
    visited: list[tuple[str, str]] = []
    read = tier.descriptors

    def watched(of: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        visited.extend((sample.digest, sample.label) for sample in of)
        return read(of)

    monkeypatch.setattr(tier, "descriptors", watched)
    assert is_right(world, quality.compute())
    assert visited == sorted((sample.digest, sample.label) for sample in world.survivors.values())


def test_the_same_picture_with_two_labels(world: World, quality: Quality) -> None:
    new_sample = world.new_sample("cat", owner="bob")
    world.take_in([new_sample, replace(new_sample, label="dog", owner="cy")])
    assert is_right(world, quality.compute())


def test_a_label_with_one_sample_is_never_recognised(world: World, quality: Quality) -> None:
    world.take_in([world.new_sample("gnu")])
    measured = quality.compute()
    assert is_right(world, measured)
    assert measured is not None
    (gnu,) = [label for label in measured.report.labels if label.label == "gnu"]
    assert (gnu.samples, gnu.recall) == (1, 0.0)


@pytest.mark.parametrize("count", [0, 1])
def test_there_is_none_of_fewer_than_two_samples(world: World, count: int, caplog: pytest.LogCaptureFixture) -> None:
    world.add(count)
    assert quality_of(start(world)).compute() is None
    assert caplog.records == []


def test_of_two_samples_there_is_one(world: World) -> None:
    world.add(2)  # a cat and a dog
    measured = quality_of(start(world)).compute()
    assert is_right(world, measured)
    assert measured is not None
    assert (measured.report.accuracy, measured.report.calibration_error) == (0.0, 1.0)


# ----------------------------------------------------------------------------------------------- additions, erasures


def test_additions_leave_a_report_true_of_what_it_names(world: World, quality: Quality) -> None:
    before = quality.compute()
    world.add(5)
    assert quality.current() is before
    assert before is not None
    assert before.report == world.quality_report(first=30)
    assert is_right(world, quality.compute())


def test_samples_that_come_while_it_is_computed_are_not_counted(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_reading(monkeypatch, tier, lambda: world.add(5))
    measured = quality.compute()
    assert measured is not None
    assert measured.report == world.quality_report(first=30)
    assert quality.current() is measured


def test_samples_that_come_between_the_sums_and_the_list_are_not_counted(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = quality._take
    monkeypatch.setattr(quality, "_take", lambda: (take(), world.add(5))[0])
    measured = quality.compute()
    assert measured is not None
    assert measured.report == world.quality_report(first=30)


def test_every_way_to_erase_ends_the_report_with_its_transaction(world: World, quality: Quality) -> None:
    world.take_in([world.new_sample("cat", "bob")])
    ids = list(world.survivors)
    for erase in (
        lambda: world.erase(ids[0]),
        lambda: world.erase(ids[1], ids[2]),
        lambda: world.erase_owner("bob"),
    ):
        assert quality.compute() is not None
        erase()
        assert quality.current() is None
        assert quality.current() is None  # nor later
        assert is_right(world, quality.compute())


@pytest.mark.parametrize("portion", [0, 1, 2])
def test_an_erasure_while_it_is_computed_ends_the_computation(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch, portion: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(quality_module, "CHUNK", 10)
    while_reading(monkeypatch, tier, lambda: erase_first(world), after=portion)
    assert quality.compute() is None
    assert quality.current() is None
    assert caplog.records == []  # which is no fault
    assert is_right(world, quality.compute())


@pytest.mark.parametrize("count", [1, 30])
def test_an_erasure_between_the_sums_and_the_list_ends_the_computation(
    world: World, quality: Quality, monkeypatch: pytest.MonkeyPatch, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if nothing is left to be listed."""
    take, victims = quality._take, list(world.survivors)[:count]
    with monkeypatch.context() as patch:
        patch.setattr(quality, "_take", lambda: (take(), world.erase(*victims))[0])
        assert quality.compute() is None
    assert caplog.records == []
    assert quality.current() is None


def test_an_object_destroyed_meanwhile_is_no_fault(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The replica counts as dead, so nothing waits for it."""
    victims = list(world.survivors.values())

    def destroy() -> None:
        world.erase(*[sample.id for sample in victims])
        tier.leave()
        world.reconcile()
        assert not is_stored(world, victims[0])

    while_reading(monkeypatch, tier, destroy)
    assert quality.compute() is None
    assert not [record for record in caplog.records if "quality" in record.message]


# ------------------------------------------------------------------------------------------------------------- memory


def test_once_a_replica_has_reported_nothing_of_the_removed_is_in_its_memory(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    measured = quality.compute()
    assert measured is not None
    forgotten = weakref.ref(measured)
    del measured
    erase_first(world)
    assert tier.catch_up() is not None
    tier.report()
    gc.collect()
    assert forgotten() is None


def test_a_replica_keeps_its_report_while_nothing_is_removed(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    measured = quality.compute()
    world.add(2)
    tier.keep()
    assert quality.current() is measured


def test_a_replica_reports_an_erasure_only_after_the_computation_has_let_go(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = first(world)
    assert erase_while_computing(world, tier, quality.compute, victim, monkeypatch) == (None, True, True)
    world.reconcile()
    assert not is_stored(world, victim)


def test_sums_taken_after_a_look_know_no_removed_sample(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A computation begins while the replica makes sure that nothing of the removed is left."""
    accumulated = tier.accumulated

    def meanwhile() -> object:
        erase_first(world)
        return accumulated()

    monkeypatch.setattr(tier, "accumulated", meanwhile)
    measured = quality.compute()
    assert is_right(world, measured)


def test_nothing_is_kept_of_a_computation_that_fails(
    world: World, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[weakref.ref[LeaveOneOut]] = []
    said: list[str] = []

    class Watched(LeaveOneOut):
        def scores(self, descriptors: Descriptor, labels: Sequence[str]) -> Sums:
            heads.append(weakref.ref(self))
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(quality_module, "LeaveOneOut", Watched)
        patch.setattr(quality_module.log, "exception", said.append)  # pytest keeps what is logged, frames and all
        assert quality.compute() is None
    assert ["it will be tried again" in words for words in said] == [True]
    gc.collect()
    assert heads[0]() is None
    assert is_right(world, quality.compute())

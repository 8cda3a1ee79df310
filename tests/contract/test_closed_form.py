"""The closed-form tier and the feed of changes: right at every mark, and what a replica needs is not destroyed."""

import random
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.tidy import PROCESSES_KEPT, tidy
from service.registry import replicas
from service.registry.records import Marks, Replica
from service.serving import closed_form as tier_module
from service.serving import descriptor_files, survivor_sums
from service.serving.closed_form import ClosedFormTier
from service.serving.closed_form_updater import ClosedFormUpdater
from tests.replicas import (
    digest,
    erase_first,
    fall_silent,
    findings,
    first,
    is_right,
    is_stored,
    known,
    live_replicas,
    start,
    work,
)
from tests.world import DAY, World, accepted, running


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows eight samples of two labels; nothing is trained."""
    world.add(8)
    return start(world)


# ------------------------------------------------------------------------------------------------- additions, erasures


@pytest.mark.parametrize("seed", range(3))
def test_after_any_additions_and_erasures_it_is_what_the_survivors_alone_give(world: World, seed: int) -> None:
    chance = random.Random(seed)
    tiers = [start(world, "one"), start(world, "two")]
    for turn in range(12):
        if world.survivors and chance.random() < 0.5:
            world.erase(*chance.sample(list(world.survivors), chance.randint(1, min(4, len(world.survivors)))))
        else:
            world.take_in([world.new_sample(chance.choice(["cat", "dog", "emu"])) for _ in range(chance.randint(1, 5))])
        for tier in chance.sample(tiers, chance.randint(0, 2)):
            assert is_right(world, tier), turn
            tier.keep()
        world.reconcile()
    assert all(is_right(world, tier) for tier in tiers)
    assert digest(tiers[0]) == digest(tiers[1])
    assert is_right(world, start(world, "three"))


def test_a_removal_is_answered_at_once_by_a_head_of_few_entries_until_the_whole_one_is_solved(
    world: World, tier: ClosedFormTier
) -> None:
    woken: list[bool] = []
    tier.unsolved = lambda: woken.append(True)
    erase_first(world)
    meantime = tier.current()
    assert meantime is not None
    assert meantime.head is not None
    assert (meantime.whole, meantime.samples, woken) == (False, 7, [True])
    assert meantime.head.entries is not None
    assert tier.current() is meantime  # not solved by those who ask
    tier.keep()
    whole = tier.current()
    assert whole is not None
    assert whole.head is not None
    assert (whole.whole, whole.samples, whole.head.entries) == (True, 7, None)
    assert whole.marks == meantime.marks


def test_an_addition_leaves_the_whole_head_in_place_until_another_is_solved(world: World, tier: ClosedFormTier) -> None:
    before = tier.current()
    world.add(2)
    assert tier.current() is before
    assert known(tier) == (world.closed_form_digest(), 10)
    assert tier.current() is before
    tier.keep()
    after = tier.current()
    assert after is not None
    assert (after.whole, after.samples) == (True, 10)


def test_a_removal_while_the_whole_head_is_solved_makes_it_void(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = tier_module.solve
    victims = [first(world)]

    def removed_meanwhile(*given: object, **how: object) -> object:
        head = solve(*given, **how)  # type: ignore[arg-type]
        while victims:
            world.erase(victims.pop().id)
            assert tier.current() is not None
        return head

    monkeypatch.setattr(tier_module, "solve", removed_meanwhile)
    world.add(1)
    tier.catch_up()
    solved = tier.current()
    assert solved is not None
    assert (solved.whole, solved.samples) == (False, 8)
    tier.keep()
    solved = tier.current()
    assert solved is not None
    assert (solved.whole, solved.samples) == (True, 8)
    assert is_right(world, tier)


def test_a_tier_that_is_left_while_its_head_is_solved_stays_silent(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = tier_module.solve

    def left_meanwhile(*given: object, **how: object) -> object:
        tier.leave()
        return solve(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(tier_module, "solve", left_meanwhile)
    world.add(1)
    assert tier.catch_up() is None
    assert tier.current() is None


def test_the_updater_is_woken_to_solve(world: World, tier: ClosedFormTier) -> None:
    updater = ClosedFormUpdater(tier, 3600)
    updater.start()
    erase_first(world)
    assert tier.current() is not None
    for _ in range(1000):
        solved = tier.current()
        if solved is not None and solved.whole:
            break
        time.sleep(0.01)
    updater.stop()
    assert solved is not None
    assert (solved.whole, solved.samples) == (True, 7)


def test_nobody_is_somebody_to_start_with(world: World) -> None:
    tier = start(world)
    assert is_right(world, tier)
    solved = tier.current()
    assert solved is not None
    assert solved.head is None


def test_a_sample_that_came_and_went_between_two_looks_was_never_there(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(tier)
    for _ in range(2):
        (sample,) = world.add(1)
        world.erase(sample.id)
        monkeypatch.setattr(world.context.store, "get", None)  # it need not even be read
    assert digest(tier) == before == world.closed_form_digest()


def test_many_changes_at_once_are_read_in_parts(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_files, "CHUNK", 3)
    monkeypatch.setattr(descriptor_files, "TURN", 2)
    monkeypatch.setattr(survivor_sums, "CHUNK", 3)
    old = list(world.survivors)[:7]
    new = [sample.id for sample in world.add(20)]
    world.erase(*old, *new[:6])
    assert is_right(world, tier)
    assert is_right(world, start(world, "two"))


def test_a_label_comes_with_its_first_sample_and_goes_with_its_last(world: World, tier: ClosedFormTier) -> None:
    foxes = [accepted(found).id for found in world.take_in([world.new_sample("fox"), world.new_sample("fox")])]
    for left, erased in ((["cat", "dog", "fox"], foxes[0]), (["cat", "dog"], foxes[1])):
        assert (solved := tier.catch_up()) is not None
        assert solved.head is not None
        assert solved.head.labels == ("cat", "dog", "fox")
        world.erase(erased)
        assert (solved := tier.current()) is not None
        assert solved.head is not None
        assert list(solved.head.labels) == left
    assert is_right(world, tier)


def test_several_threads_may_use_one_tier(world: World, tier: ClosedFormTier) -> None:
    done: list[bool] = []

    def look() -> None:
        while not done:
            tier.current()
            tier.summary()

    def keep() -> None:
        while not done:
            tier.keep()

    with running(look, keep):
        try:
            for _ in range(6):
                world.add(3)
                world.erase(*list(world.survivors)[:2])
        finally:
            done.append(True)
    tier.keep()
    assert is_right(world, tier)
    assert findings(world) == []


# --------------------------------------------------------------------------------------------------------- destruction


def test_an_object_stays_until_every_replica_has_reported_and_the_erasure_waits_for_it(idle: World) -> None:
    one, two = start(idle, "one"), start(idle, "two")
    victim = first(idle)
    asked = idle.erase(victim.id)
    work(idle)
    for tier in (one, two):
        assert tier.catch_up() is not None
        work(idle)
        assert is_stored(idle, victim)  # applied, and not yet recorded
        assert idle.erasure(asked.id).state == "withdrawn"
        tier.report()
        work(idle)
    assert not is_stored(idle, victim)
    assert idle.erasure(asked.id).state == "completed"
    assert is_right(idle, one)
    assert is_right(idle, two)


def test_without_a_replica_it_is_destroyed_at_once(world: World) -> None:
    world.add(8)
    victim = erase_first(world)
    world.reconcile()
    assert not is_stored(world, victim)


def test_a_replica_that_starts_needs_nobody_who_is_gone_by_then(world: World) -> None:
    world.add(8)
    victim = erase_first(world)
    tier = start(world)
    world.reconcile()
    assert not is_stored(world, victim)
    assert is_right(world, tier)


def test_who_goes_while_a_replica_starts_is_kept_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(8)
    victim, pending, get = first(world), [True], world.context.store.get

    def meanwhile(name: str) -> bytes:
        if pending:
            pending.pop()
            world.erase(victim.id)
            world.reconcile()
        return get(name)

    monkeypatch.setattr(world.context.store, "get", meanwhile)
    tier = start(world)
    assert is_stored(world, victim)
    assert is_right(world, tier)
    tier.keep()
    world.reconcile()
    assert not is_stored(world, victim)


def test_one_that_leaves_needs_nothing_any_more(world: World, tier: ClosedFormTier) -> None:
    victim = erase_first(world)
    world.reconcile()
    assert is_stored(world, victim)
    tier.leave()
    world.reconcile()
    assert not is_stored(world, victim)
    assert live_replicas(world) == {}
    assert tier.current() is None


def test_one_long_silent_holds_up_nothing_and_starts_again_when_it_is_back(world: World, tier: ClosedFormTier) -> None:
    victim = erase_first(world)
    world.reconcile()
    assert is_stored(world, victim)
    fall_silent(world)
    world.reconcile()
    assert not is_stored(world, victim)
    assert tier.current() is None
    assert live_replicas(world) == {}
    tier.keep()
    assert is_right(world, tier)
    assert findings(world) == []


def test_one_long_silent_that_has_missed_nothing_goes_on(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fall_silent(world)
    monkeypatch.setattr(tier, "start", None)
    tier.keep()
    victim = erase_first(world)
    world.reconcile()
    assert is_stored(world, victim)
    assert is_right(world, tier)


def test_one_that_was_forgotten_meanwhile_is_on_record_again(world: World, tier: ClosedFormTier) -> None:
    world.time.advance(PROCESSES_KEPT.total_seconds() + 1)
    tidy(world.context)
    assert live_replicas(world) == {}
    tier.keep()
    assert list(live_replicas(world)) == ["one"]
    victim = erase_first(world)
    world.reconcile()
    assert is_stored(world, victim)
    assert is_right(world, tier)


def test_tidying_up_takes_nothing_from_a_replica_that_needs_it(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.time.advance(DAY)
    tier.keep()
    victim = erase_first(world)
    tidy(world.context)
    assert is_stored(world, victim)
    monkeypatch.setattr(tier, "start", None)
    tier.keep()
    assert is_right(world, tier)


def test_killed_between_applying_and_reporting_its_successor_is_right(world: World, tier: ClosedFormTier) -> None:
    victim = erase_first(world)
    assert tier.catch_up() is not None
    for successor in (start(world, "two"), start(world, "one")):
        assert is_right(world, successor)
    world.reconcile()
    assert not is_stored(world, victim)  # the second successor has the dead one's name, and needs nothing
    assert findings(world) == []


@pytest.mark.parametrize(("skew", "waits"), [(8, True), (-8, True), (3600, False), (-3600, False)])
def test_clocks_may_differ(world: World, skew: int, waits: bool) -> None:
    world.add(8)
    context = replace(world.context, clock=lambda: world.time() + timedelta(seconds=skew))
    here, there = start(world, "here"), ClosedFormTier(context, name="there")
    there.keep()
    victim = erase_first(world)
    here.keep()
    world.reconcile()
    assert is_stored(world, victim) == waits
    there.keep()
    assert is_right(world, here)
    assert is_right(world, there)


# --------------------------------------------------------------------------------------------------------------- audit


def test_an_audit_finds_nothing_where_everybody_is_up_to_date(world: World, tier: ClosedFormTier) -> None:
    two = start(world, "two")
    world.add(3)
    erase_first(world)
    for one in (tier, two):
        one.keep()
    assert findings(world) == []


def test_an_audit_finds_a_replica_that_knows_somebody_else(world: World, tier: ClosedFormTier) -> None:
    with world.context.registry.write() as session:
        replicas.report(session, Replica("one", world.time(), Marks(8, 0), "0" * 64))
    (found,) = findings(world)
    assert found.subject == "replica one"
    assert found.comparable
    assert "do not imply" in found.reason


def test_an_audit_finds_a_replica_that_is_behind_until_it_has_reported(world: World, tier: ClosedFormTier) -> None:
    for change in (lambda: world.add(1), lambda: erase_first(world)):
        change()
        assert tier.catch_up() is not None
        assert [found.reason for found in findings(world)] == ["has not applied all changes yet"]
        tier.report()
        assert findings(world) == []


def test_an_audit_asks_nothing_of_a_replica_that_is_not_heard_from(world: World, tier: ClosedFormTier) -> None:
    world.add(1)
    fall_silent(world)
    assert findings(world) == []

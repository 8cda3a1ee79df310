"""Lambda and temperature that a replica chooses: of the survivors alone; a choice dies with a sample that it knows."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path

import pytest

from models.choice import Choice, constants
from models.closed_form import solve
from service.registry import samples
from service.serving import quality as quality_module
from service.serving.closed_form import ClosedFormTier, Solved
from service.serving.engine import Engine
from service.serving.jobs import Answer, Query
from service.serving.quality import Quality
from tests.replicas import erase_first, findings, first, is_right, live_replicas, start
from tests.reports import give, quality_of, while_reading
from tests.world import MakeWorld, World, opened

FEWEST = 30  # samples from which on there is a choice here


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.choice.FEWEST", FEWEST)


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows forty samples of three labels; nothing is trained."""
    give(world, 40)
    return start(world)


@pytest.fixture
def quality(tier: ClosedFormTier) -> Quality:
    return quality_of(tier)


def choose(quality: Quality) -> Choice:
    """Let a replica choose, answer with it, and say so; what it has chosen."""
    quality.compute()
    quality._tier.keep()
    return answering(quality._tier).choice


def answering(tier: ClosedFormTier) -> Solved:
    solved = tier.current()
    assert solved is not None
    return solved


def settled(tier: ClosedFormTier) -> bool:
    summary = tier.summary()
    assert summary is not None
    return summary.settled


def reasons(world: World) -> list[str]:
    return [found.reason for found in findings(world)]


# --------------------------------------------------------------------------------------------------------- the choice


def test_it_is_what_the_survivors_imply_and_the_head_is_solved_with_it(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    fixed = constants(world.context.closed_form)
    assert (answering(tier).choice, settled(tier)) == (fixed, False)
    assert live_replicas(world)["one"].digest is None
    assert reasons(world) == ["has yet to start, or to choose its lambda and temperature"]
    found = choose(quality)
    assert found == world.choice()
    assert (found.ridge, found.temperature) != (fixed.ridge, fixed.temperature)  # else this file shows nothing
    solved = answering(tier)
    assert solved.head is not None
    assert solved.whole
    assert (solved.head.weight == solve(world.accumulators(), ridge=found.ridge).weight).all()
    assert settled(tier)
    assert is_right(world, tier)
    assert live_replicas(world)["one"].digest == world.closed_form_digest()
    assert reasons(world) == []


def test_the_report_of_quality_is_of_the_head_that_answers(world: World, quality: Quality) -> None:
    measured = quality.compute()
    assert measured is not None
    assert measured.choice == world.choice()
    assert measured.digest == world.closed_form_digest()
    assert measured.report == world.quality_report()


def test_the_tier_answers_with_it_before_the_report_is_done(
    tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Choice] = []

    def keep() -> None:
        tier.keep()
        seen.append(answering(tier).choice)

    while_reading(monkeypatch, tier, keep, after=1)  # the first reads what is chosen from
    quality.compute()
    assert [choice.samples for choice in seen] == [40]


def test_every_replica_chooses_the_same_whatever_came_and_went(world: World) -> None:
    chance = random.Random(1)
    tiers = [start(world, "one"), start(world, "two")]
    qualities = [quality_of(tier) for tier in tiers]
    give(world, 30)
    for turn in range(5):
        if chance.random() < 0.5:
            world.erase(*chance.sample(list(world.survivors), chance.randint(1, 3)))
        else:
            give(world, chance.randint(2, 9), seed=10 + turn)
        for quality in chance.sample(qualities, chance.randint(0, 2)):
            assert choose(quality) == world.choice()
        tiers[0].keep()
        world.reconcile()
    give(world, 10, seed=99)
    for quality in (*qualities, quality_of(start(world, "three"))):
        assert choose(quality) == world.choice()
    assert len({replica.digest for replica in live_replicas(world).values()}) == 1
    assert reasons(world) == []


def test_a_service_that_never_saw_the_erased_chooses_the_same(world: World, tmp_path: Path) -> None:
    chance = random.Random(7)
    given = give(world, 60)
    quality = quality_of(start(world))
    choose(quality)
    world.erase(*chance.sample(list(world.survivors), 17))
    digests = {sample.digest for sample in world.survivors.values()}
    left = [new_sample for new_sample in given if new_sample.digest in digests]
    chance.shuffle(left)
    ours = choose(quality)
    with opened(tmp_path / "never saw") as never_saw:
        never_saw.take_in(left)
        tier = start(never_saw)
        assert choose(quality_of(tier)) == ours
        assert tier.summary() == quality._tier.summary()


def test_a_prediction_has_the_temperature_that_was_chosen_and_after_an_erasure_the_constant(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    choose(quality)
    engine, fixed = Engine(world.context, tier), constants(world.context.closed_form)
    asked = world.new_sample()
    query = Query(world.context.backbone.preprocessing.resize(asked.pixels), asked.digest)

    def said(choice: Choice) -> dict[str, float]:
        head = solve(world.accumulators(), ridge=choice.ridge)
        return dict(zip(head.labels, head.scores(asked.descriptor[None], choice.temperature)[0].tolist(), strict=True))

    def answer() -> dict[str, float]:
        (found,) = engine.run([query])
        assert isinstance(found, Answer)
        return dict(found.scores)

    assert answer() == pytest.approx(said(world.choice()), abs=1e-6)
    assert said(world.choice()) != pytest.approx(said(fixed), abs=1e-3)
    erase_first(world)
    answer()  # by a head of few entries
    tier.keep()
    assert answer() == pytest.approx(said(fixed), abs=1e-6)


# ----------------------------------------------------------------------------------------------- additions, erasures


def test_additions_leave_it_in_use_until_it_is_made_anew(world: World, tier: ClosedFormTier, quality: Quality) -> None:
    before = choose(quality)
    give(world, 25, seed=5)
    tier.keep()
    assert answering(tier).choice == before == world.choice(first=40)
    assert (answering(tier).samples, settled(tier)) == (65, False)
    assert reasons(world) == ["has yet to start, or to choose its lambda and temperature"]
    assert choose(quality) == world.choice()
    assert (settled(tier), reasons(world)) == (True, [])


def test_from_the_transaction_of_any_erasure_on_the_constants_answer(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    world.take_in([world.new_sample("cat", "bob")])
    ids, fixed = list(world.survivors), constants(world.context.closed_form)
    for erase in (
        lambda: world.erase(ids[0]),
        lambda: world.erase(ids[1], ids[2]),
        lambda: world.erase_owner("bob"),
    ):
        assert choose(quality).samples
        erase()
        assert (answering(tier).choice, answering(tier).whole) == (fixed, False)
        tier.keep()
        assert (answering(tier).choice, answering(tier).whole) == (fixed, True)
        solved = answering(tier)
        assert solved.head is not None
        assert (solved.head.weight == solve(world.accumulators(), ridge=fixed.ridge).weight).all()
        assert not settled(tier)
        assert choose(quality) == world.choice()


def test_also_where_the_head_for_the_meantime_is_the_whole_one(make_world: MakeWorld) -> None:
    world = make_world(closed_form={"features": "quick"})
    give(world, 40)
    tier = start(world)
    assert choose(quality_of(tier)).samples == 40
    erase_first(world)
    assert (answering(tier).choice, answering(tier).whole) == (Choice(0.3, 0.1), True)
    assert choose(quality_of(tier)) == world.choice()
    assert (is_right(world, tier), reasons(world)) == (True, [])


def test_with_a_sample_too_few_the_constants_are_what_the_survivors_imply(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    choose(quality)
    world.erase(*list(world.survivors)[: 40 - FEWEST + 1])
    tier.keep()
    assert (answering(tier).choice, settled(tier)) == (constants(world.context.closed_form), True)
    assert is_right(world, tier)
    assert reasons(world) == []


def test_a_choice_that_an_erasure_overtakes_is_never_used(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While samples are read, between two portions, and when all is computed; before or after the replica knows."""
    made, fixed = quality_module.choose, constants(world.context.closed_form)

    def overtaken(*given: object, **how: object) -> Choice:
        choice = made(*given, **how)  # type: ignore[arg-type]
        erase_first(world)
        return choice

    with monkeypatch.context() as patch:
        while_reading(patch, tier, lambda: erase_first(world))
        assert quality.compute() is None
    assert answering(tier).choice == fixed
    with monkeypatch.context() as patch:
        patch.setattr(quality_module, "choose", overtaken)
        assert quality.compute() is None
    assert answering(tier).choice == fixed
    marks, choice = quality.marks(), world.choice()
    erase_first(world)
    tier.adopt(choice, marks)  # it does not know of the erasure yet
    assert answering(tier).choice == fixed
    tier.adopt(choice, marks)
    tier.keep()
    assert answering(tier).choice == fixed
    assert choose(quality) == world.choice()


def test_once_a_replica_has_reported_it_has_left_the_memory(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    choose(quality)
    assert tier._chosen is not None
    forgotten = weakref.ref(tier._chosen[1])
    erase_first(world)
    tier.keep()
    gc.collect()
    assert forgotten() is None


def test_a_replica_that_has_lost_its_sums_chooses_again(world: World, tier: ClosedFormTier, quality: Quality) -> None:
    choose(quality)
    assert quality.is_done(quality.marks())
    tier.leave()
    tier.keep()
    assert answering(tier).choice == constants(world.context.closed_form)
    assert not quality.is_done(quality.marks())
    assert choose(quality) == world.choice()
    assert quality.is_done(quality.marks())


# ------------------------------------------------------------------------------------------------- settings and faults


def test_what_the_operator_has_set_is_not_chosen(make_world: MakeWorld) -> None:
    world = make_world(closed_form={"ridge": 0.5, "temperature": 0.2})
    give(world, 40)
    tier = start(world)
    quality = quality_of(tier)
    assert settled(tier)
    assert choose(quality) == Choice(0.5, 0.2)
    assert (is_right(world, tier), reasons(world)) == (True, [])


@pytest.mark.parametrize("setting", ["ridge", "temperature"])
def test_the_other_one_is_chosen_beside_it(make_world: MakeWorld, setting: str) -> None:
    world = make_world(closed_form={setting: 0.5})
    give(world, 40)
    found = choose(quality_of(start(world)))
    assert found == world.choice()
    assert (getattr(found, setting), found.samples) == (0.5, 40)


def test_without_reports_it_is_chosen_all_the_same(make_world: MakeWorld) -> None:
    world = make_world(quality={"enabled": False})
    give(world, 40)
    tier = start(world)
    quality = quality_of(tier)
    assert not quality.is_done(quality.marks())
    assert quality.compute() is None
    tier.keep()
    assert answering(tier).choice == world.choice()
    assert quality.is_done(quality.marks())


@pytest.mark.parametrize("labels", [1, 40])
def test_of_one_label_or_labels_of_one_sample_each_there_is_none(world: World, labels: int) -> None:
    world.take_in([world.new_sample(f"label {i % labels}") for i in range(40)])
    tier = start(world)
    assert settled(tier)
    assert choose(quality_of(tier)) == constants(world.context.closed_form)
    assert is_right(world, tier)


def test_while_a_sample_cannot_be_read_the_constants_hold(world: World, tier: ClosedFormTier, quality: Quality) -> None:
    path = world.file_of(samples.object_name(first(world).id))
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-3])
    assert choose(quality) == constants(world.context.closed_form)
    assert not quality.is_done(quality.marks())
    path.write_bytes(whole)
    assert choose(quality) == world.choice()


def test_it_leaves_the_core_to_others(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(quality={"share": 0.25, "enabled": False})
    give(world, 40)
    quality = quality_of(start(world))
    times, pauses = iter(range(1000)), []
    monkeypatch.setattr("service.serving.quality.time.perf_counter", lambda: float(next(times)))
    monkeypatch.setattr(quality._outdated, "wait", pauses.append)
    quality.compute()
    assert pauses == [3.0] * 10  # five factors and five portions, each one second of work


# --------------------------------------------------------------------------------------------------------------- audit


def test_an_audit_finds_a_replica_that_answers_with_another_choice(
    world: World, tier: ClosedFormTier, quality: Quality
) -> None:
    right = choose(quality)
    for wrong in (
        Choice(1.0 if right.ridge != 1.0 else 0.3, right.temperature, right.samples),
        Choice(right.ridge, 0.123, right.samples),
        Choice(0.1, 0.1, 0),
    ):
        tier.adopt(wrong, quality.marks())
        tier.keep()
        (found,) = findings(world)
        assert found.comparable
        assert found.reason == "has a closed-form tier that the survivors do not imply"
    choose(quality)
    assert reasons(world) == []


def test_an_audit_has_few_descriptors_in_memory(
    world: World, tier: ClosedFormTier, quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.choice.MOST", 20)
    assert choose(quality).samples == 20
    asked: list[int] = []
    made = quality_module.choose

    def watched(state: object, rows: object, labels: list[str], **how: object) -> Choice:
        asked.append(len(labels))
        return made(state, rows, labels, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("service.core.implied.choose", watched)
    assert (reasons(world), asked) == ([], [20])

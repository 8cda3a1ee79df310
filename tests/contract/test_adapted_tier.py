"""The tier of adapted descriptors: exact, pooled with the frozen one, and silent while its adapter is not in force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import fusion
from models.embedding import describe
from service.core import adapting
from service.core.adapted_describer import AdaptedDescriber
from service.core.audit import Scope, audit
from service.registry import adapted, feed
from service.registry.records import Role
from service.serving import adapted as adapted_module
from service.serving.adapted import Adapted, AdaptedTier
from service.serving.closed_form import ClosedFormTier
from service.serving.engine import Answer, Engine, Query
from service.serving.votes import Moment
from tests.replicas import start
from tests.world import World, opened

CORE: Role = "core"


class Replica:
    """An API process: its two tiers and its engine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.frozen: ClosedFormTier = start(world)
        self.adapted = AdaptedTier(world.context, name="one")
        self.engine = Engine(world.context, self.frozen, self.adapted)
        self.frozen.before_report = self._let_go

    def _let_go(self) -> None:
        self.adapted.let_go()

    def keep(self) -> None:
        self.frozen.keep()
        self.adapted.keep()

    def answers(self, queries: list[Query]) -> list[dict[str, float]]:
        found = self.engine.run(queries)
        assert all(isinstance(one, Answer) for one in found), found
        return [dict(one.scores) for one in found if isinstance(one, Answer)]

    def now(self) -> Adapted | None:
        with self.world.context.registry.read() as session:
            return self.adapted.current(adapted.publication_in_force(session), feed.marks(session).removals)


def queries(world: World, count: int = 5) -> list[Query]:
    resize = world.context.backbone.preprocessing.resize
    return [Query(resize(one.pixels), one.digest) for one in world.new_samples(count)]


def victim(world: World, role: Role) -> str:
    return next(one.id for one in world.survivors.values() if one.role == role)


def findings(world: World) -> list[str]:
    return [f"{found.subject} {found.reason}" for found in audit(world.context, Scope())]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A core of six and ten others, described; clusters serve no prompts that are asked."""
    with opened(tmp_path, partition={"cap": 100, "min": 50}, training={"epochs": 4}) as world:
        world.add(6, "museum", CORE)
        world.add(10)
        world.settle()
        yield world


@pytest.fixture
def replica(world: World) -> Replica:
    replica = Replica(world)
    replica.keep()
    return replica


def test_its_sums_are_those_of_an_adapter_that_was_trained_from_nothing(world: World, replica: Replica) -> None:
    found = replica.now()
    assert found is not None
    assert found.values.any()
    summary = replica.adapted.accumulated()
    assert summary == (world.adapted_digest(), 16, 0)
    assert findings(world) == []


@pytest.mark.parametrize("kind", ["padding", "feature", "none"])
def test_answers_are_pooled_half_and_half(world: World, kind: str) -> None:
    world.restart(training={"prompt_kind": kind, "epochs": 4}, serving={"withdrawn": "closed_form"})
    world.settle()
    replica = Replica(world)
    replica.keep()
    asked = queries(world)
    alone = Engine(world.context, replica.frozen).run(asked)
    found = replica.now()
    assert found is not None
    temperature = world.context.closed_form.temperature
    images = [query.image for query in asked]
    described = describe(world.context.backbone, images).descriptors
    seen = adapting.describe(world.context, found.values, [image.permute(1, 2, 0).numpy() for image in images])
    solved = replica.frozen.current()
    assert solved is not None
    assert solved.head is not None
    both = fusion.pool(
        solved.head.labels,
        solved.head.scores(described, temperature),
        found.head.labels,
        found.head.scores(seen, temperature),
    )
    (cluster,) = world.clusters()
    share = fusion.weight(cluster.samples, 16) if cluster.serving_key else 0.0
    for place, (said, frozen) in enumerate(zip(replica.answers(asked), alone, strict=True)):
        assert isinstance(frozen, Answer)
        before = dict(frozen.scores)
        first = dict(zip(solved.head.labels, solved.head.scores(described, temperature)[place], strict=True))
        pooled = dict(zip(solved.head.labels, both[place], strict=True))
        for label in pooled:
            wanted = before[label] + (1.0 - share) * (pooled[label] - first[label])
            assert said[label] == pytest.approx(wanted, abs=2e-3)
        assert said != before


def test_a_removed_sample_is_out_of_the_next_answer_and_the_tier_is_exact_again(world: World, replica: Replica) -> None:
    asked = queries(world)
    world.erase(victim(world, "training"))
    assert replica.now() is None
    frozen = [dict(one.scores) for one in Engine(world.context, replica.frozen).run(asked) if isinstance(one, Answer)]
    assert replica.answers(asked) == frozen
    replica.keep()
    assert replica.now() is not None
    assert replica.adapted.accumulated() == (world.adapted_digest(), 15, 0)
    assert replica.answers(asked) != frozen
    world.settle()
    replica.keep()
    assert findings(world) == []


def test_a_removed_core_sample_silences_the_tier_until_its_successor_is_described(
    world: World, replica: Replica
) -> None:
    world.erase(victim(world, CORE))
    assert replica.now() is None
    replica.keep()
    assert replica.adapted.accumulated() is None
    world.settle()
    replica.keep()
    assert replica.now() is not None
    assert replica.adapted.accumulated() == (world.adapted_digest(), 15, 0)
    assert findings(world) == []


@pytest.mark.parametrize("role", ["training", CORE])
def test_an_answer_that_was_computed_before_a_removal_is_computed_again(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    asked, computed = queries(world), []
    beside = Engine._beside

    def erased_meanwhile(engine: Engine, now: Moment, given: Any) -> Any:
        result = beside(engine, now, given)
        computed.append(result[1] is not None)
        if len(computed) == 1:
            world.erase(victim(world, role))
        return result

    monkeypatch.setattr(Engine, "_beside", erased_meanwhile)
    said = replica.answers(asked)
    monkeypatch.setattr(Engine, "_beside", beside)
    assert computed == [True, False]
    assert said == [
        dict(one.scores) for one in Engine(world.context, replica.frozen).run(asked) if isinstance(one, Answer)
    ]


def test_an_answer_that_was_computed_before_the_adapter_was_withdrawn_is_computed_again(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any removal: its artifact turned out to be damaged."""
    asked, computed = queries(world), []
    beside = Engine._beside

    def damaged_meanwhile(engine: Engine, now: Moment, given: Any) -> Any:
        result = beside(engine, now, given)
        computed.append(result[1] is not None)
        with world.context.registry.read() as session:
            prompt = adapted.in_force(session)
        if prompt is not None:
            world.file_of(prompt.object_name).write_bytes(b"damaged")
            assert adapting.load(world.context, prompt) is None
        return result

    monkeypatch.setattr(Engine, "_beside", damaged_meanwhile)
    replica.answers(asked)
    assert computed == [True, False]


def test_sums_that_miss_a_removal_are_given_up(world: World, replica: Replica) -> None:
    """This replica counted as dead, and the object of the removed sample is gone."""
    replica.frozen.leave()
    world.erase(victim(world, "training"))
    world.settle()
    assert replica.now() is None
    replica.frozen.keep()
    replica.adapted.keep()
    assert replica.adapted.accumulated() in (None, (world.adapted_digest(), 15, 0))
    replica.adapted.keep()
    assert replica.adapted.accumulated() == (world.adapted_digest(), 15, 0)


def test_a_sample_that_is_removed_before_it_is_described_loses_no_sums(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Exception] = []
    monkeypatch.setattr(AdaptedTier, "_lose", lambda _tier, failure: lost.append(failure))
    (sample,) = world.add(1)
    world.erase(sample.id)
    replica.keep()
    assert lost == []
    assert replica.now() is not None


def test_an_old_publication_of_the_same_key_never_answers(world: World, replica: Replica) -> None:
    before = replica.now()
    assert before is not None
    with world.context.registry.read() as session:
        prompt = adapted.in_force(session)
    assert prompt is not None
    world.file_of(prompt.object_name).write_bytes(b"damaged")
    AdaptedDescriber(world.context).portion()  # nothing is missing, so it is not noticed here
    assert adapting.load(world.context, prompt) is None
    assert replica.now() is None
    world.settle()
    assert replica.now() is None
    replica.keep()
    after = replica.now()
    assert after is not None
    assert (after.publication == before.publication, after.samples) == (False, 16)


def test_while_fewer_than_half_are_described_frozen_features_answer_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.core.adapted_describer.PORTION", 4)
    world.erase(victim(world, CORE))
    while world.reconcile():
        while world.train():
            pass
    replica, describer, counts = Replica(world), AdaptedDescriber(world.context), []
    while describer.portion():
        replica.keep()
        moment = replica.engine._now()
        summary = replica.adapted.accumulated()
        assert summary is not None
        counts.append((summary[1], moment.adapted is not None))
    assert counts == [(4, False), (8, True), (12, True), (15, True)]
    assert replica.adapted.accumulated() == (world.adapted_digest(), 15, 0)


def test_labels_that_only_one_head_knows(world: World, replica: Replica) -> None:
    okapi = world.new_sample("okapi")
    world.take_in([okapi])
    replica.frozen.keep()
    (said,) = replica.answers([Query(world.context.backbone.preprocessing.resize(okapi.pixels), okapi.digest)])
    assert set(said) == {"cat", "dog", "okapi"}
    assert sum(said.values()) == pytest.approx(1.0)
    world.settle()
    replica.keep()
    assert replica.adapted.accumulated() == (world.adapted_digest(), 17, 0)


def test_a_descriptor_that_cannot_be_read_is_computed_again(world: World) -> None:
    with world.context.registry.read() as session:
        name = adapted.object_name(adapted.publication_in_force(session) or "", victim(world, "training"))
    world.file_of(name).write_bytes(b"damaged")
    replica = Replica(world)
    replica.keep()
    assert replica.now() is None
    assert world.describe_adapted() == 1
    replica.keep()
    assert replica.adapted.accumulated() == (world.adapted_digest(), 16, 0)


def test_an_erasure_waits_for_a_tier_that_still_knows_its_sample(world: World, replica: Replica) -> None:
    found, sample_id = replica.now(), victim(world, "training")
    assert found is not None
    name = adapted.object_name(found.publication, sample_id)
    accepted = world.erase(sample_id)
    for _ in range(3):
        world.reconcile()
    assert world.erasure(accepted.id).completed_at is None
    assert name in world.objects()  # it is yet to be subtracted
    replica.frozen.keep()
    known = replica.adapted.accumulated()
    assert known is not None
    assert known[1] == 15
    for _ in range(3):
        world.reconcile()
    assert world.erasure(accepted.id).completed_at is not None
    assert name not in world.objects()


def test_a_sample_that_is_removed_while_the_tier_still_reads_is_never_added(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapted_module, "CHUNK", 4)
    replica = Replica(world)
    read, left = AdaptedTier._added, list(world.survivors)[::-1]

    def erased_meanwhile(tier: AdaptedTier, *given: Any) -> Any:
        row = read(tier, *given)
        if len(left) in (16, 14, 12):
            world.erase(left[0])
        left.pop(0)
        return row

    monkeypatch.setattr(AdaptedTier, "_added", erased_meanwhile)
    for _ in range(3):
        replica.keep()
    monkeypatch.setattr(AdaptedTier, "_added", read)
    world.settle()
    replica.keep()
    summary = replica.adapted.accumulated()
    assert summary is not None
    assert summary[0] == world.adapted_digest()


def test_without_a_core_nothing_is_kept_or_asked(tmp_path: Any) -> None:
    with opened(tmp_path) as world:
        world.add(8)
        world.settle()
        replica = Replica(world)
        replica.keep()
        assert replica.adapted.accumulated() is None
        assert replica.engine._kept() is None
        assert replica.engine._now().adapted is None


@pytest.mark.parametrize("sabotage", ["sums", "digest"])
def test_the_audit_notices_other_sums(world: World, replica: Replica, sabotage: str) -> None:
    sums = replica.adapted._sums
    assert sums is not None
    replica.adapted._reported = None
    if sabotage == "sums":
        sums.state.gram[0, 0] += 1.0
    else:
        sums.state.counts["cat"] += 1
    replica.adapted.keep()
    assert findings(world) == ["replica one has sums of adapted descriptors that the survivors do not imply"]


def pooled(first: list[float], second: list[float]) -> np.ndarray:
    return fusion.pool(["a", "b"], np.array([first]), ["a", "b"], np.array([second]))


def test_a_pool_of_two_that_agree_is_what_both_say() -> None:
    assert pooled([0.3, 0.7], [0.3, 0.7])[0] == pytest.approx([0.3, 0.7])
    assert pooled([0.5, 0.5], [0.2, 0.8])[0] == pytest.approx([1 / 3, 2 / 3])
    assert pooled([1.0, 0.0], [0.0, 1.0])[0] == pytest.approx([0.5, 0.5])

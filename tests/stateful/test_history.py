"""Any history of additions, erasures, crashes and restarts ends where the survivors alone would have led.

The oracle is `service.core.plan`, fed with the test's own books. `OUBLI_EXAMPLES` sets how many histories are tried (4
unless set; 30 by `make test-all`), `OUBLI_STEPS` how long they are.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from models.embedding import Descriptor
from service.core import erasure, reconcile, relayout, replan
from service.core.adapted_describer import AdaptedDescriber
from service.core.context import Context
from service.errors import NotFound
from service.registry.engine import Registry
from service.registry.feed import Added
from service.registry.records import Sample
from service.serving.adapted import AdaptedTier
from service.serving.closed_form import ClosedFormTier
from service.serving.held_out import HeldOut
from service.serving.quality import Quality
from tests.servers import fresh_database, postgres
from tests.stateful.invariants import Invariants
from tests.stateful.material import (
    EXAMPLES,
    PICTURES,
    REPLICAS,
    centroids,
    gallery,
    owners,
    partitions,
    places,
    run,
    seeds,
    some_replicas,
    steps,
)
from tests.world import lease, opened

FEWEST = 16  # samples from which on lambda and temperature are chosen here


class History(Invariants):
    """One service and everything that may happen to it, in any order."""

    beside: Context  # of the processes that replicas live in
    server: str | None = None  # a PostgreSQL server; SQLite without one
    backbone = "tiny"

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.killed = 0

    @initialize(partition=partitions, seed=seeds, populations=st.integers(1, 3))
    def open(self, partition: dict[str, Any], seed: int, populations: int) -> None:
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        url = self.stack.enter_context(fresh_database(self.server)) if self.server else None
        self.world = self.stack.enter_context(
            opened(folder, url, partition=self.pinned(partition), backbone=self.backbone)
        )
        # Processes of their own: they outlive the restarts of others.
        registry = Registry(self.world.context.settings.database)
        self.stack.callback(registry.close)
        self.beside = replace(self.world.context, registry=registry)
        self.tiers, self.qualities, self.held_outs, self.adapteds = {}, {}, {}, {}
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("models.choice.FEWEST", FEWEST)
        for name in REPLICAS:
            self.start_a_replica(name, name)
        for owner in range(populations):
            self.add(seed + owner, 15, f"old {owner}")

    def pinned(self, partition: dict[str, Any]) -> dict[str, Any]:
        return {**partition, "centroids": centroids(self.backbone)} if partition.get("kind") == "pinned" else partition

    def survivor(self, place: int) -> Sample:
        return list(self.world.survivors.values())[place % len(self.world.survivors)]

    # ------------------------------------------------------------------------------------------- what people do

    @rule(seed=seeds, count=st.integers(1, 25), owner=owners)
    def add(self, seed: int, count: int, owner: str) -> None:
        chance = random.Random(seed)
        chosen = [replace(gallery(self.backbone)[chance.randrange(PICTURES)], owner=owner) for _ in range(count)]
        roles = ["training", "training", "core"]
        self.world.take_in(
            [replace(one, label=chance.choice(["cat", "dog"]), role=chance.choice(roles)) for one in chosen]
        )

    @rule(seed=seeds, count=st.integers(1, 6), owner=owners)
    def hold_out(self, seed: int, count: int, owner: str) -> None:
        """Pictures of the same gallery: some are learned as well, before, later or at no time."""
        chance = random.Random(seed)
        chosen = [gallery(self.backbone)[chance.randrange(PICTURES)] for _ in range(count)]
        labels = [chance.choice(["cat", "dog", "emu"]) for _ in chosen]
        given = zip(chosen, labels, strict=True)
        self.world.take_in([replace(one, owner=owner, label=label, role="evaluation") for one, label in given])

    @precondition(lambda self: self.world.held_out)
    @rule(place=places, with_another=st.booleans())
    def erase_an_evaluation_sample(self, place: int, with_another: bool) -> None:
        ids = [list(self.world.held_out)[place % len(self.world.held_out)]]
        if with_another and self.world.survivors:
            ids.append(self.survivor(place).id)
        self.world.erase(*ids)
        self.erased += ids

    @precondition(lambda self: self.world.survivors)
    @rule(place=places)
    def erase_a_sample(self, place: int) -> None:
        sample = self.survivor(place)
        self.world.erase(sample.id)
        self.erased.append(sample.id)

    @precondition(lambda self: len(self.world.survivors) > 1)
    @rule(place=places, count=st.integers(2, 8))
    def erase_a_batch(self, place: int, count: int) -> None:
        chosen = {self.survivor(place + 3 * i).id for i in range(count)}
        erasure.erase_samples(self.world.context, sorted(chosen))
        for sample_id in chosen:
            del self.world.survivors[sample_id]
        self.erased += sorted(chosen)

    @rule(owner=owners)
    def erase_an_owner(self, owner: str) -> None:
        everything = (*self.world.survivors.values(), *self.world.held_out.values())
        theirs = [sample.id for sample in everything if sample.owner == owner]
        try:
            self.world.erase_owner(owner)
        except NotFound:
            assert not theirs
        self.erased += theirs

    @precondition(lambda self: self.erased)
    @rule(place=places)
    def erase_again(self, place: int) -> None:
        before = len(self.world.erasures())
        with suppress(NotFound):
            assert self.world.erase(self.erased[place % len(self.erased)]).state != "completed"
        assert len(self.world.erasures()) == before

    # ------------------------------------------------------------------------------------- what the service does

    @rule()
    def reconcile(self) -> None:
        self.world.reconcile()

    @rule()
    def plan_only(self) -> None:
        replan.replan(self.world.context)

    @rule()
    def destroy_only(self) -> None:
        reconcile.destroy_pending(self.world.context)

    @rule(count=st.integers(1, 4))
    def train(self, count: int) -> None:
        for _ in range(count):
            self.world.train()

    @rule(count=st.integers(1, 3))
    def describe_with_the_adapter(self, count: int) -> None:
        describer = AdaptedDescriber(self.world.context)
        for _ in range(count):
            describer.portion()

    @rule(step=steps)
    def train_and_die(self, step: str) -> None:
        self.world.reconcile()
        self.world.kill_at(step)

    @precondition(lambda self: self.world.survivors)
    @rule(step=steps.filter(lambda name: name not in ("store", "commit")), place=places)
    def erase_during_training(self, step: str, place: int) -> None:
        self.world.reconcile()
        pending = [place]

        def hook(name: str) -> None:
            if name == step and pending:
                self.erase_a_sample(pending.pop())

        self.world.train(step=hook)

    @rule(step=steps.filter(lambda name: name not in ("store", "commit")), seed=seeds, owner=owners)
    def add_during_training(self, step: str, seed: int, owner: str) -> None:
        self.world.reconcile()
        pending = [seed]

        def hook(name: str) -> None:
            if name == step and pending:
                self.add(pending.pop(), 2, owner)

        self.world.train(step=hook)

    @rule(step=steps.filter(lambda name: name not in ("store", "commit")))
    def train_too_slowly(self, step: str) -> None:
        self.world.reconcile()
        pending = ["faster"]

        def hook(name: str) -> None:
            if name == step and pending:
                self.world.time.advance(lease(self.world) + 1)
                self.world.reconcile()
                self.world.train(pending.pop())

        self.world.train("slower", step=hook)

    @precondition(lambda self: self.world.survivors)
    @rule(partition=partitions, place=places, seed=seeds, owner=owners)
    def come_and_go_while_a_move_is_prepared(
        self, partition: dict[str, Any], place: int, seed: int, owner: str
    ) -> None:
        self.world.restart(partition=self.pinned(partition))
        prepare = relayout.prepare

        def prepared(context: Context) -> relayout.Relayout | None:
            found = prepare(context)
            self.add(seed, 2, owner)
            self.erase_a_sample(place)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relayout, "prepare", prepared)
            replan.replan(self.world.context)

    @rule(seconds=st.sampled_from([1, 25, 700]))
    def wait(self, seconds: int) -> None:
        self.world.time.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(partition=partitions)
    def restart_with_another_partition(self, partition: dict[str, Any]) -> None:
        self.world.restart(partition=self.pinned(partition))

    @rule()
    def reconcile_like_an_api_process(self) -> None:
        reconcile.reconcile(self.world.context, refit=False)

    # ----------------------------------------------------------------------------------------- what replicas know

    @rule(names=some_replicas)
    def keep(self, names: list[str]) -> None:
        for name in names:
            self.tiers[name].keep()
            self.adapteds[name].keep()
            assert self.is_right(self.tiers[name])

    @rule(names=some_replicas)
    def look_without_a_word(self, names: list[str]) -> None:
        """A prediction: what is applied is not reported."""
        for name in names:
            assert self.tiers[name].summary() is None or self.is_right(self.tiers[name])

    @rule(name=st.sampled_from(REPLICAS), same_name=st.booleans())
    def kill_a_replica(self, name: str, same_name: bool) -> None:
        self.killed += 1
        self.start_a_replica(name, name if same_name else f"{name} {self.killed}")

    def start_a_replica(self, place: str, name: str) -> None:
        self.tiers[place] = tier = ClosedFormTier(self.beside, name=name)
        self.qualities[place] = quality = Quality(self.beside, tier)
        self.held_outs[place] = held_out = HeldOut(self.beside, tier)
        self.adapteds[place] = adapted = AdaptedTier(self.beside, name=name)
        tier.before_report = lambda: (adapted.let_go(), quality.forget())[1]
        tier.let_go = held_out.let_go

    @rule(names=some_replicas)
    def measure_quality(self, names: list[str]) -> None:
        for name in names:
            known = self.tiers[name].summary() is not None and len(self.world.survivors) >= 2
            assert (self.qualities[name].compute() is not None) == known

    @rule(names=some_replicas)
    def measure_with_the_evaluation_set(self, names: list[str]) -> None:
        for name in names:
            known = self.tiers[name].summary() is not None and self.world.survivors and self.world.held_out
            assert (self.held_outs[name].compute() is not None) == bool(known)

    @precondition(lambda self: self.world.survivors)
    @rule(name=st.sampled_from(REPLICAS), place=places, reads=st.integers(0, 1))
    def erase_while_quality_is_measured(self, name: str, place: int, reads: int) -> None:
        """While lambda and temperature are chosen, or while the report is computed."""
        tier, pending, left = self.tiers[name], [place], [0] * reads
        read = tier.descriptors

        def hook(of: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
            if left:
                left.pop()
            elif pending:
                self.erase_a_sample(pending.pop())
            return read(of)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tier, "descriptors", hook)
            measured = self.qualities[name].compute()
        assert pending or measured is None

    @rule(name=st.sampled_from(REPLICAS))
    def shut_a_replica_down(self, name: str) -> None:
        self.tiers[name].leave()

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.settle()  # in spite of replicas that say nothing
                self.keep(REPLICAS)
                self.world.check()
                self.check_quality()
                self.keep(REPLICAS)
                self.check_at_rest()
                self.check_adapted()
        finally:
            self.stack.close()


@pytest.mark.timeout(60 + 20 * EXAMPLES)
def test_any_history_ends_where_its_survivors_lead() -> None:
    run(History, EXAMPLES)


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.thorough
def test_any_history_ends_where_its_survivors_lead_with_the_real_backbone() -> None:
    class Real(History):
        backbone = "efficientnet-lite0"

    run(Real, 2, steps=15)


@pytest.mark.thorough
@pytest.mark.postgres
@pytest.mark.timeout(60 + 20 * EXAMPLES)
def test_any_history_ends_where_its_survivors_lead_on_postgresql() -> None:
    with postgres() as url:

        class OnPostgres(History):
            server = url

        run(OnPostgres, max(2, EXAMPLES // 4))

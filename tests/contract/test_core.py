"""The core: samples that the adapter is trained on, and what becomes of it as they come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch

from models import checkpoint
from models.spec import adapter_size
from models.training import TrainedPrompt, TrainingExample, train
from service.core import erasure, intake, training
from service.core.audit import Scope, audit
from service.core.replan import replan
from service.errors import Invalid, Misconfigured
from service.registry import clusters, prompts
from service.registry.records import Cluster, Prompt, Role
from service.registry.tables import ClusterRow
from service.serving.snapshot import take_snapshot
from tests.world import MakeWorld, World, settings, sqlite_only

CORE: Role = "core"


def adapter_of(world: World) -> Cluster:
    found = world.adapter()
    assert found is not None
    return found


def published(world: World) -> Prompt:
    """The adapter in force."""
    key = adapter_of(world).serving_key
    assert key is not None
    with world.context.registry.read() as session:
        return prompts.get(session, [key])[key]


def core_of(world: World) -> list[str]:
    """Ids of the core samples that survive, in order of arrival."""
    return [one.id for one in world.survivors.values() if one.role == CORE]


def trained(world: World) -> TrainedPrompt:
    """The adapter in force, read from its object."""
    found, identity = published(world), world.context.identity_of(world.context.adapting)
    data = world.context.store.get(found.object_name)
    return checkpoint.load(data, key=found.key, digest=found.digest, labels=found.labels, identity=identity)


def findings(world: World, scope: Scope | None = None) -> list[str]:
    return [f"{finding.subject} {finding.reason}" for finding in audit(world.context, scope or Scope())]


@pytest.fixture
def cored(make_world: MakeWorld) -> World:
    """Twelve core samples among thirty to learn from."""
    world = make_world()
    world.add(9)
    world.add(12, "museum", CORE)
    world.add(9)
    world.settle()
    return world


def test_the_adapter_is_what_the_core_alone_implies(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(9)
    museum = world.new_samples(12, "museum", CORE)
    world.take_in(museum)
    world.add(9)
    world.settle()
    world.check()
    members = [TrainingExample(one.pixels, one.label) for one in museum]
    key = adapter_of(world).serving_key or ""
    again = train(world.context.backbone, world.context.adapting, key=key, members=members)
    assert checkpoint.tensor_digest(again) == published(world).digest
    assert findings(world, Scope(rebuild_all=True)) == []


@sqlite_only
def test_core_samples_are_learned_from_like_any_other(cored: World) -> None:
    assert sum(cluster.samples for cluster in cored.clusters()) == 30
    members = {sample.id for sample in cored.samples()}
    with cored.context.registry.read() as session:
        seen = {
            sample
            for cluster in cored.clusters()
            for sample in members
            if cluster.serving_key in prompts.containing(session, [sample])
        }
    assert seen == members


@sqlite_only
def test_without_a_core_there_is_no_adapter(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(12)
    world.settle()
    world.check()
    assert world.adapter() is None


@pytest.mark.parametrize(("core", "size"), [(0, 0), (1, 1), (15, 15), (17, 16), (31, 30), (1500, 1408), (5007, 4608)])
def test_an_adapter_is_trained_on_a_size_from_a_public_grid(core: int, size: int) -> None:
    assert adapter_size(core) == size
    assert adapter_size(size) == size
    assert core - size <= core / 8


def test_additions_to_the_core_train_it_again_in_steps(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(16, "museum", CORE)
    world.settle()
    before = published(world)
    world.add(1, "museum", CORE)
    world.settle()
    world.check()
    assert published(world) == before
    world.add(1, "museum", CORE)
    world.settle()
    world.check()
    assert published(world).members == 18


@sqlite_only
def test_while_a_larger_core_is_trained_the_adapter_of_the_smaller_one_serves(cored: World) -> None:
    before = adapter_of(cored).serving_key
    cored.add(3, "museum", CORE)
    cored.reconcile()
    assert adapter_of(cored).serving_key == before != adapter_of(cored).desired_key


def test_erasing_a_core_sample_withdraws_the_adapter_in_the_same_transaction(cored: World) -> None:
    adapter, old = adapter_of(cored), published(cored)
    epoch = take_snapshot(cored.context, None).epoch
    accepted = cored.erase(core_of(cored)[3])
    assert adapter_of(cored).serving_key is None
    assert take_snapshot(cored.context, None).epoch > epoch
    assert adapter.id in {one.cluster for one in accepted.clusters}
    with cored.context.registry.read() as session:
        assert prompts.get(session, [old.key]) == {}
    while cored.erasure(accepted.id).completed_at is None:
        cored.reconcile()
        cored.time.advance(1)
    assert old.object_name not in cored.objects()
    cored.settle()
    cored.check()
    assert cored.erasure(accepted.id).restored_at is not None


def test_erasing_any_other_sample_leaves_the_adapter_alone(cored: World) -> None:
    before = published(cored)
    cored.erase(next(one.id for one in cored.survivors.values() if one.role != CORE))
    assert published(cored) == before
    cored.settle()
    cored.check()
    assert published(cored) == before


def test_erasing_a_core_sample_that_came_after_the_first_of_the_grid_costs_no_training(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(17, "museum", CORE)
    world.settle()
    before = published(world)
    last = core_of(world)[-1]
    assert erasure.quote(world.context, sample_ids=[last]).described == 0
    world.erase(last)
    assert adapter_of(world).serving_key == before.key
    world.settle()
    world.check()
    assert published(world) == before


def test_the_last_core_sample_takes_the_adapter_with_it(cored: World) -> None:
    accepted = cored.erase_owner("museum")
    cored.settle()
    cored.check()
    assert cored.adapter() is None
    assert {one.state for one in cored.erasure(accepted.id).clusters} <= {"restored", "removed"}
    assert findings(cored) == []


@sqlite_only
@pytest.mark.parametrize("labels", [["cat"], ["cat", "cat", "cat"], ["cat", "okapi"]])
def test_a_small_core_an_equal_one_and_one_of_foreign_labels_are_learned_from(
    make_world: MakeWorld, labels: list[str]
) -> None:
    world = make_world()
    world.take_in([world.new_sample(label, "museum", CORE) for label in labels])
    world.settle()
    world.check()
    assert published(world).members == len(labels)
    world.add(8)
    world.settle()
    world.check()
    assert findings(world, Scope(rebuild_all=True)) == []


@sqlite_only
def test_an_adapter_that_diverges_is_a_failure_that_shows(make_world: MakeWorld) -> None:
    world = make_world(core={"prompt_lr": 1e30}, training={"head_lr": 1e30})
    world.add(12, "museum", CORE)
    while world.reconcile():
        while world.train():
            pass
        world.time.advance(600)
        if adapter_of(world).attempts >= 3:
            break
    failed = adapter_of(world)
    assert failed.serving_key is None
    assert "core.prompt_lr" in (failed.failure or "")


def test_an_adapter_with_which_the_backbone_sees_nothing_is_not_published(
    cored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of nought, which are as finite as any."""
    before = trained(cored)
    blind = replace(before, values=torch.stack([torch.full_like(before.values[0], -1.0), before.values[1] * 0.0]))
    monkeypatch.setattr(training, "train", lambda *_args, **_more: blind)
    cored.erase(core_of(cored)[0])
    cored.reconcile()
    while cored.train():
        pass
    assert adapter_of(cored).serving_key is None
    assert "core.prompt_lr" in (adapter_of(cored).failure or "")


@pytest.mark.parametrize(
    "step",
    ["build", "store", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("epoch 1", "publish", "commit"))],
)
def test_a_worker_that_dies_while_it_trains_the_adapter_leaves_nothing(make_world: MakeWorld, step: str) -> None:
    world = make_world(partition={"cap": 40, "min": 8})
    world.add(12, "museum", CORE)
    world.reconcile()
    while adapter_of(world).leased_until is None:
        assert world.kill_at(step)
    world.erase(core_of(world)[0])
    world.settle()
    world.check()
    assert findings(world) == []


@sqlite_only
def test_another_learning_rate_of_the_adapter_trains_it_again_and_nothing_else(cored: World) -> None:
    before, old = {cluster.serving_key for cluster in cored.clusters()}, adapter_of(cored).serving_key
    cored.restart(core={"prompt_lr": 0.01})
    cored.settle()
    cored.check()
    assert {cluster.serving_key for cluster in cored.clusters()} == before
    assert adapter_of(cored).serving_key != old


@sqlite_only
def test_processes_with_other_settings_of_the_core_do_not_work_side_by_side(cored: World, tmp_path: Path) -> None:
    other = settings(cored.folder, core={"prompt_lr": 0.01})
    stale = replace(cored.context, settings=other)
    cored.add(3, "museum", CORE)
    with pytest.raises(Misconfigured, match="core"):
        replan(stale)
    assert stale.adapting != cored.context.adapting


@sqlite_only
def test_a_quote_says_what_the_core_costs(cored: World) -> None:
    quoted = erasure.quote(cored.context, sample_ids=[core_of(cored)[0]])
    private = next(one.id for one in cored.survivors.values() if one.role != CORE)
    cheap = erasure.quote(cored.context, sample_ids=[private])
    assert quoted.described == 29
    assert adapter_of(cored).id in quoted.clusters
    assert quoted.sample_epochs >= 11
    assert cheap.described == 0
    assert adapter_of(cored).id not in cheap.clusters


@sqlite_only
def test_a_backbone_without_cuts_refuses_core_samples(cored: World) -> None:
    cored.restart(training={"cut": 1})
    unfit = settings(cored.folder, training={"cut": 99})
    uncut = replace(cored.context, settings=unfit)
    (refused,) = intake.take_in(uncut, [cored.new_sample("cat", "museum", CORE)])
    assert isinstance(refused, Invalid)
    assert "core" in refused.detail


@sqlite_only
@pytest.mark.parametrize("sabotage", ["count", "key", "row", "file"])
def test_the_audit_notices(cored: World, sabotage: str) -> None:
    name = published(cored).object_name
    if sabotage == "file":
        cored.file_of(name).write_bytes(b"something else")
    else:
        with cored.context.registry.write() as session:
            adapter = clusters.adapter(session)
            assert adapter is not None
            mine = ClusterRow.id == adapter.id
            other = cored.clusters()[0].serving_key
            if sabotage == "count":
                session.execute(sa.update(ClusterRow).where(mine).values(samples=3))
            elif sabotage == "key":
                session.execute(sa.update(ClusterRow).where(mine).values(serving_key=other, desired_key=other))
            else:
                session.execute(sa.delete(ClusterRow).where(mine))
    assert findings(cored) != []

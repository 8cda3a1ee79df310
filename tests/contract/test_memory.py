"""Before an erasure is completed, its samples have left the memory of workers and replicas as well."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest

from models.image import Pixels
from service.core import reconcile, training
from service.errors import Unavailable
from service.registry.leases import Claim
from service.registry.samples import MemberRecord
from service.serving.closed_form import ClosedFormTier
from service.serving.engine import Engine
from tests.world import World, lease, meanwhile
from workers import lease as worker_lease
from workers.lease import LeaseHolder


@pytest.fixture
def busy(idle: World) -> World:
    """An addition to some cluster waits to be trained."""
    idle.add(1)
    idle.reconcile()
    return idle


def erase_one_that_is_trained_on(world: World) -> str:
    """Of the cluster that is leased just now."""
    cluster = next(c for c in world.clusters() if c.leased_until is not None)
    victim = next(sample for sample in world.samples() if sample.cluster == cluster.id)
    return world.erase(victim.id).id


def test_an_erasure_waits_until_the_worker_has_let_go_of_the_sample(busy: World) -> None:
    seen = []

    def erase_and_look() -> None:
        found = erase_one_that_is_trained_on(busy)
        busy.reconcile()  # which does all else
        seen.append(busy.erasure(found))

    assert busy.train(step=meanwhile("epoch 1", erase_and_look))
    busy.reconcile()
    (before,) = seen
    assert (before.state, busy.erasure(before.id).state) == ("withdrawn", "completed")


def test_what_a_worker_lets_go_of_is_not_in_its_memory(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Pixels]] = []
    load = training._load

    def watched(context: training.Context, claim: training.Claim, row: MemberRecord) -> training.TrainingExample:
        example = load(context, claim, row)
        pixels = np.array(example.pixels)  # an array of our own: it can be watched
        seen.append(weakref.ref(pixels))
        return training.TrainingExample(pixels, example.label)

    monkeypatch.setattr(training, "_load", watched)
    assert busy.train(step=meanwhile("epoch 1", lambda: erase_one_that_is_trained_on(busy)))
    gc.collect()
    assert seen
    assert all(reference() is None for reference in seen)


def test_a_worker_that_died_is_waited_for_until_its_lease_would_have_run_out(busy: World) -> None:
    assert busy.kill_at("epoch 1")
    found = erase_one_that_is_trained_on(busy)
    busy.time.advance(lease(busy) - 1)
    busy.reconcile()
    assert busy.erasure(found).state == "withdrawn"
    busy.time.advance(1)
    busy.reconcile()
    assert busy.erasure(found).state == "completed"


def test_a_clock_that_was_set_back_does_not_prolong_that(busy: World) -> None:
    assert busy.kill_at("epoch 1")
    found = erase_one_that_is_trained_on(busy)
    busy.time.advance(-86_400)
    busy.reconcile()
    assert busy.erasure(found).state == "completed"


def test_a_worker_whose_lease_a_new_cut_has_ended_is_waited_for_as_well(busy: World) -> None:
    seen = []

    def cut_anew_and_erase() -> None:
        leased = next(cluster for cluster in busy.clusters() if cluster.leased_until is not None)
        victim = next(sample for sample in busy.samples() if sample.cluster == leased.id)
        busy.add(40)  # every cluster is above its cap now
        reconcile.replan(busy.context)
        seen.append([cluster.leased_until for cluster in busy.clusters() if cluster.leased_until is not None])
        found = busy.erase(victim.id)
        busy.reconcile()
        seen.append(busy.erasure(found.id))

    assert busy.train(step=meanwhile("epoch 1", cut_anew_and_erase))
    leases, before = seen
    assert (leases, before.state) == ([], "withdrawn")
    busy.reconcile()
    assert busy.erasure(before.id).state == "completed"


def test_a_worker_cut_off_from_the_registry_stops_when_its_lease_has_run_out(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own clock: then erasures wait for it no longer."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    holder = LeaseHolder(idle.context, "worker")
    claim = Claim("cluster", "key", 0, "token", None)
    holder.changed(claim)

    def renew(*_: object) -> None:
        if away:
            raise Unavailable("The registry is away.")

    monkeypatch.setattr(worker_lease, "renew", renew)
    seconds, away = lease(idle), False
    now += seconds - 1
    holder.renew()
    away = True
    now += seconds - 1
    with pytest.raises(Unavailable):
        holder.renew()
    assert not holder.is_lost
    now += 2
    assert holder.is_lost
    holder.changed(None)
    assert not holder.is_lost


def test_a_replica_reports_once_withdrawn_prompts_have_left_its_memory(idle: World) -> None:
    tier = ClosedFormTier(idle.context, name="one")
    engine = Engine(idle.context, tier)
    tier.before_report = engine.refresh
    tier.start()
    tier.report()
    before = engine.refresh().keys
    found = idle.erase(next(iter(idle.survivors)))
    idle.reconcile()
    assert idle.erasure(found.id).state == "withdrawn"
    tier.keep()
    assert engine._snapshot is not None
    assert engine._snapshot.keys < before  # without a request, and before it is on record
    idle.reconcile()
    assert idle.erasure(found.id).state == "completed"

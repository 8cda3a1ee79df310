"""Deletions cannot keep the model down: what is set back again and again is retrained at growing intervals."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.core import reconcile, states
from service.registry import clusters, leases
from service.registry.records import Cluster
from tests.world import MakeWorld, World, meanwhile

FIRST, LONGEST = 10.0, 100.0  # seconds


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """One cluster of 30, which serves, and has done so for long."""
    world = make_world(partition={"cap": 100, "min": 10}, erasure={"retrain_pause": FIRST, "complete_within": LONGEST})
    world.add(30)
    world.settle()
    world.time.advance(3600)
    return world


def only(world: World) -> Cluster:
    (cluster,) = world.clusters()
    return cluster


def delete_one(world: World) -> str:
    return world.erase(next(iter(world.survivors))).id


def pause(world: World) -> float:
    """How long the cluster is not trained from now on, seconds."""
    retrain_at = only(world).retrain_at
    return (retrain_at - world.time.now).total_seconds() if retrain_at is not None else 0.0


def train_by_and_by(world: World) -> float:
    """Look every second until the cluster serves again; how long that took, seconds."""
    began = world.time.now
    for _ in range(1000):
        world.reconcile()
        if world.train():
            world.reconcile()
            return (world.time.now - began).total_seconds()
        world.time.advance(1)
    raise AssertionError("it is never trained")


# -------------------------------------------------------------------------------------------------------- intervals


def test_deleting_whenever_the_prompt_is_back_makes_it_come_back_later_each_time(world: World) -> None:
    waited = []
    for _ in range(8):
        delete_one(world)
        waited.append(train_by_and_by(world))
    assert waited == [0, 0, FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, LONGEST, LONGEST]
    world.check()


def test_a_prompt_that_has_served_for_as_long_ends_it(world: World) -> None:
    for _ in range(4):
        delete_one(world)
        train_by_and_by(world)
    world.time.advance(2 * FIRST - 1)  # what it last waited, but for a second
    delete_one(world)
    assert pause(world) == 4 * FIRST
    train_by_and_by(world)
    world.time.advance(4 * FIRST)
    delete_one(world)
    assert (only(world).setbacks, pause(world)) == (0, 0.0)
    assert train_by_and_by(world) == 0


def test_deletions_that_come_faster_than_a_training_are_waited_out_together(world: World) -> None:
    """Each training under way is a setback more; what comes while the cluster waits is none, and prolongs nothing."""
    delete_one(world)
    for _ in range(2):
        world.reconcile()
        assert world.train(step=meanwhile("epoch 1", lambda: delete_one(world)))
    assert pause(world) == FIRST
    for _ in range(5):
        world.time.advance(1)
        delete_one(world)
        world.reconcile()
        assert not world.train()
    assert pause(world) == FIRST - 5
    world.time.advance(5)
    world.reconcile()
    assert world.train()
    world.settle()
    world.check()


def test_every_erasure_is_completed_meanwhile_and_restored_in_the_end(world: World) -> None:
    found = []
    for _ in range(6):
        found.append(delete_one(world))
        world.reconcile()
        done = world.erasure(found[-1])
        assert (done.state, done.completed_at, done.restored_at) == (states.COMPLETED, world.time.now, None)
        world.train(step=meanwhile("epoch 1", lambda: found.append(delete_one(world))))
    assert not world.serving_keys()
    world.settle()
    world.check()
    assert all(world.erasure(one).restored_at is not None for one in found)


def test_a_deletion_that_takes_nothing_sets_nothing_back(world: World) -> None:
    """Of a sample that no prompt has seen, while nothing is being trained."""
    for _ in range(4):
        (late,) = world.add(1)
        world.erase(late.id)
        world.reconcile()
    assert (only(world).setbacks, only(world).retrain_at) == (0, None)


def test_additions_wait_as_well_and_what_serves_goes_on(world: World) -> None:
    for _ in range(3):
        delete_one(world)
        world.reconcile()
        world.train()
    delete_one(world)
    world.add(1)
    world.reconcile()
    assert not world.train()
    assert states.cluster_state(only(world), now=world.time(), attempts=3) == states.WITHDRAWN


# ------------------------------------------------------------------------------------------------------- beside it


def test_an_operator_need_not_wait(world: World) -> None:
    for _ in range(4):
        delete_one(world)
        train_by_and_by(world)
    delete_one(world)
    world.reconcile()
    with world.context.registry.write() as session:
        assert leases.retry(session, only(world).id)
    assert world.train()
    assert only(world).setbacks == 0


def test_a_cluster_that_pauses_has_not_waited_yet(world: World) -> None:
    for _ in range(4):
        delete_one(world)
        train_by_and_by(world)
    delete_one(world)
    with world.context.registry.read() as session:
        assert clusters.pausing(session, world.time()) == 1
        assert clusters.waiting_since(session) == world.time.now + timedelta(seconds=4 * FIRST)
    world.time.advance(4 * FIRST + 3)
    with world.context.registry.read() as session:
        assert clusters.pausing(session, world.time()) == 0
        assert clusters.waiting_since(session) == world.time.now - timedelta(seconds=3)


def test_the_pause_goes_with_the_samples_when_clusters_are_cut_anew(make_world: MakeWorld) -> None:
    world = make_world(partition={"cap": 40, "min": 10}, erasure={"retrain_pause": FIRST, "complete_within": LONGEST})
    world.add(40)
    world.settle()
    for _ in range(4):
        delete_one(world)
        train_by_and_by(world)
    delete_one(world)
    world.add(10)
    reconcile.replan(world.context)
    assert len(world.clusters()) > 1
    assert {cluster.setbacks for cluster in world.clusters()} == {5}
    assert not world.train()
    world.settle()
    world.check()


def test_a_clock_that_was_set_back_does_not_prolong_a_pause(world: World) -> None:
    for _ in range(4):
        delete_one(world)
        train_by_and_by(world)
    delete_one(world)
    world.time.advance(-3000)  # to when all that is on record had come, but for this
    world.reconcile()
    assert 0 < pause(world) <= LONGEST

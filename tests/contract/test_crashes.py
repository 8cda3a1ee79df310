"""A worker that dies at any step, and what changes while one trains: nothing that is erased is served or left."""

import os
import signal
from multiprocessing import get_context

import pytest

from service.clock import system_clock
from service.core import training
from service.core.opening import open_context
from service.registry import prompts
from service.serving.snapshot import take_snapshot
from service.settings import Settings
from tests.world import STEPS, MakeWorld, World, lease, meanwhile, prompt_objects

# ------------------------------------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_is_replaced_when_its_lease_ends(planned: World, step: str) -> None:
    assert planned.kill_at(step)
    with planned.context.registry.read() as session:
        assert prompts.known_objects(session, prompt_objects(planned)) == set()
    assert planned.serving_keys() == []
    if step != "claim":
        planned.time.advance(lease(planned) - 1)
        assert not planned.train("heir")
        planned.time.advance(1)
    assert planned.train("heir")
    planned.settle()
    planned.check()


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_does_not_keep_an_erased_sample(planned: World, step: str) -> None:
    planned.kill_at(step)
    planned.erase(next(iter(planned.survivors)))
    planned.settle()
    planned.check()


def test_what_a_killed_worker_had_stored_goes_when_its_cluster_joins_others(world: World) -> None:
    world.add(14)
    world.settle()
    smallest = min(world.clusters(), key=lambda cluster: cluster.samples)
    mine = [sample.id for sample in world.samples() if sample.cluster == smallest.id]
    world.erase(mine[0])
    world.reconcile()
    assert world.kill_at("commit")
    world.time.advance(lease(world))
    world.erase(*mine[1:])
    world.settle()
    world.check()


def test_what_a_killed_worker_had_stored_goes_when_its_cluster_vanishes_in_a_new_cut(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(30)
    world.reconcile()
    while world.kill_at("commit"):
        pass
    assert len(prompt_objects(world)) == len(world.clusters()) > 2
    world.restart(partition={"cap": 60})
    world.settle()
    world.check()
    assert len(world.clusters()) == 1


def test_a_worker_that_dies_in_an_orderly_way_takes_what_it_stored_along(planned: World) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planned.train(step=meanwhile("commit", interrupt))
    assert prompt_objects(planned) == []


def train_until_killed(settings: Settings, at: str) -> None:
    """In a process of its own: train, and get SIGKILL as that step begins."""

    def kill(step: str) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    training.train_one(open_context(settings), worker="doomed", step=kill)


def test_a_worker_process_killed_between_storing_and_publishing_is_replaced_and_leaves_nothing(planned: World) -> None:
    process = get_context("spawn").Process(target=train_until_killed, args=(planned.context.settings, "commit"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(prompt_objects(planned)) == 1
    assert planned.serving_keys() == []
    assert take_snapshot(planned.context, None).served == []
    planned.time.now = system_clock()  # the dead worker went by this one
    assert not planned.train("heir")
    planned.time.advance(lease(planned))
    assert planned.train("heir")
    planned.reconcile()
    planned.check()


# --------------------------------------------------------------------------------------------- what changes meanwhile


@pytest.mark.parametrize("step", ["build", "epoch 1", "publish"])
def test_a_training_is_fenced_off_by_an_erasure(planned: World, step: str) -> None:
    victim = next(iter(planned.survivors))
    assert planned.train(step=meanwhile(step, lambda: planned.erase(victim)))
    assert planned.serving_keys() == []
    assert prompt_objects(planned) == []
    planned.settle()
    planned.check()


@pytest.mark.parametrize("step", ["build", "epoch 1", "publish"])
def test_an_addition_lets_the_training_under_way_finish_and_is_trained_next(planned: World, step: str) -> None:
    planned.train(step=meanwhile(step, lambda: planned.add(2)))
    with planned.context.registry.read() as session:
        (served,) = prompts.get(session, planned.serving_keys()).values()
    assert served.members == 8
    assert planned.reconcile() == 1
    planned.settle()
    planned.check()


def test_a_sample_erased_after_it_came_during_a_training_leaves_that_training_in_vain(planned: World) -> None:
    late: list[str] = []
    planned.train(step=meanwhile("build", lambda: late.append(planned.add(1)[0].id)))
    planned.erase(late[0])
    planned.settle()
    planned.check()


def test_an_erasure_right_before_the_members_are_listed_is_no_failure(planned: World) -> None:
    """The worker holds a lease, and finds members that are not those of its key."""
    victim = next(iter(planned.survivors))
    planned.train(step=meanwhile("build", lambda: planned.erase(victim)))
    assert {cluster.failure for cluster in planned.clusters()} == {None}


def test_an_erasure_while_members_are_loaded_is_no_failure(planned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = next(reversed(planned.survivors))
    read = planned.context.store.get
    pending = [victim]

    def get(name: str) -> bytes:
        if pending:
            planned.erase(pending.pop())
            planned.reconcile()
        return read(name)

    monkeypatch.setattr(planned.context.store, "get", get)
    planned.train()
    assert {(cluster.failure, cluster.attempts) for cluster in planned.clusters()} == {(None, 0)}
    planned.settle()
    planned.check()

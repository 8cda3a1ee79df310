"""Clusters whose training kills its worker: every try is counted, they are shown, and an operator may call at once."""

from datetime import timedelta

import pytest

from service.core import training
from service.errors import Unavailable
from service.registry import counters, leases, prompts
from service.registry.engine import Registry
from service.registry.records import Cluster
from service.registry.states import cluster_state
from tests.rows import LEASE, NOW, claim, make_cluster
from tests.world import World, lease, meanwhile


def state_of(world: World, cluster: Cluster) -> str:
    return cluster_state(cluster, now=world.time(), attempts=world.context.settings.training.attempts)


def come_back(world: World, name: str = "doomed") -> list[str]:
    """A worker of that name starts again, after a kill."""
    settings = world.context.settings.training
    with world.context.registry.write() as session:
        left = leases.end_left_behind(
            session, worker=name, now=world.time(), pause=lambda tries: training.pause_after(settings, tries)
        )
        prompts.destroy_unpublished(session, left)
    return left


def test_a_cluster_that_kills_whoever_trains_it_is_put_aside_and_shown(planned: World) -> None:
    (before,) = planned.clusters()
    for tries in range(3):
        assert planned.kill_at("epoch 1", f"worker {tries}")
        assert planned.clusters()[0].attempts == tries  # the worker that takes over counts
        planned.time.advance(max(lease(planned), 10 * 2**tries))
    assert not planned.train("careful")  # the third makes it too many: no worker is risked
    (cluster,) = planned.clusters()
    assert (cluster.id, cluster.attempts, cluster.failure) == (before.id, 3, leases.KILLED)
    assert cluster.leased_until is None
    assert state_of(planned, cluster) == "failed"
    with planned.context.registry.read() as session:
        assert counters.every(session).plain(counters.FAILURES).count == 3  # as operators are told
    planned.time.advance(39)
    assert planned.reconcile() == 0
    planned.time.advance(1)
    assert planned.reconcile() == 1  # it is tried again by itself
    assert planned.train("lucky")
    (cluster,) = planned.clusters()
    assert (cluster.attempts, cluster.failure, state_of(planned, cluster)) == (0, None, "serving")
    planned.reconcile()
    planned.check()


def test_a_worker_that_was_killed_counts_its_try_when_it_comes_back(planned: World) -> None:
    pauses = []
    for tries in range(1, 9):
        assert planned.kill_at("epoch 1")
        assert len(come_back(planned)) == 1
        assert come_back(planned) == []
        (cluster,) = planned.clusters()
        assert (cluster.attempts, cluster.failure) == (tries, leases.KILLED)
        pause = 0
        while not planned.reconcile():
            planned.time.advance(10)
            pause += 10
        pauses.append(pause)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    planned.settle()
    planned.check()


def test_another_cluster_is_trained_while_one_that_kills_pauses(world: World) -> None:
    world.add(30)
    world.reconcile()
    poison = world.clusters()[0].id

    def claims_poison(name: str) -> bool:
        """Whether that worker, killed as it begins, was at the poison."""
        assert world.kill_at("build", name)
        leased = {cluster.id for cluster in world.clusters() if cluster.leased_until is not None}
        come_back(world, name)
        return poison in leased

    while not claims_poison("doomed"):
        pass
    while world.train("sound"):
        pass
    assert {cluster.id for cluster in world.clusters() if cluster.serving_key} < {c.id for c in world.clusters()}
    world.settle()
    world.check()


def test_an_interrupted_training_is_no_failed_try(planned: World) -> None:
    assert training.train_one(planned.context, worker="w", interrupted=lambda: True)
    with planned.context.registry.write() as session:
        assert leases.release(session, worker="w") == []
    (cluster,) = planned.clusters()
    assert (cluster.attempts, cluster.failure, cluster.leased_until) == (0, None, None)
    assert planned.train()


def test_a_worker_that_leaves_in_order_has_failed_at_nothing(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    assert claim(registry, "leaver")
    with registry.write() as session:
        assert len(leases.release(session, worker="leaver")) == 1
    found = claim(registry, "next")
    assert found is not None
    assert found.replaced is None


def test_a_training_that_a_deletion_overtakes_is_no_failed_try(planned: World) -> None:
    planned.train(step=meanwhile("publish", lambda: planned.erase(next(iter(planned.survivors)))))
    (cluster,) = planned.clusters()
    assert (cluster.attempts, cluster.failure) == (0, None)
    planned.settle()
    planned.check()


def test_a_registry_that_is_away_during_a_training_is_no_failed_try(
    planned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leases.renew
    asked: list[int] = []

    def away(*arguments: object, **keywords: object) -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable("The registry is away.")
        return real(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(leases, "renew", away)
    assert planned.train()
    assert asked
    (cluster,) = planned.clusters()
    assert cluster.attempts == 0
    assert cluster.serving_key == cluster.desired_key  # it went on, and published when the registry was back


def test_a_registry_that_is_away_at_publishing_leaves_the_work_to_be_done_again(
    planned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **keywords: object) -> bool:
        raise Unavailable("The registry is away.")

    with monkeypatch.context() as patch:
        patch.setattr(leases, "publish", away)
        assert planned.train()
    (cluster,) = planned.clusters()
    assert (cluster.attempts, cluster.serving_key, cluster.leased_until) == (0, None, None)
    assert planned.train()
    planned.reconcile()
    planned.check()


def test_an_operators_call_forgets_failed_tries_and_their_pause(planned: World) -> None:
    with planned.context.registry.write() as session:
        assert not leases.retry(session, planned.clusters()[0].id)  # nothing has failed
        assert not leases.retry(session, "00000000-0000-7000-8000-000000000000")
    for _ in range(4):
        planned.kill_at("build")
        come_back(planned)
        planned.time.advance(600)
    planned.kill_at("build")
    come_back(planned)
    (cluster,) = planned.clusters()
    assert state_of(planned, cluster) == "failed"
    assert planned.reconcile() == 0
    with planned.context.registry.write() as session:
        assert leases.retry(session, cluster.id)
    (cluster,) = planned.clusters()
    assert (cluster.attempts, cluster.failure, state_of(planned, cluster)) == (0, None, "training")
    assert planned.reconcile() == 1
    assert planned.train()


def test_a_lease_that_a_deletion_ended_is_not_counted_against_the_cluster(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    leased = claim(registry, "w")
    assert leased is not None
    with registry.write() as session:
        assert leases.give_up(session, leased)
        assert leases.end_left_behind(session, worker="w", now=NOW, pause=lambda tries: timedelta(seconds=tries)) == []
    found = claim(registry, after=LEASE.total_seconds() + 1)
    assert found is not None
    assert found.replaced is None

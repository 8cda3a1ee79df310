"""The worker process's trainer: it keeps its lease, gives it back in time, and outlives a registry that is away."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from service.clock import system_clock
from service.core import training
from service.errors import Misconfigured, Unavailable
from service.messaging.queues import DELETIONS, QUEUES
from service.registry import descriptions, leases, workers
from service.registry.engine import Registry, WriteSession
from service.registry.leases import Claim
from service.registry.records import Worker
from tests.world import MakeWorld, World
from workers import trainer as module
from workers.heartbeat import device_name
from workers.trainer import FAILED, STALLED, Trainer

NAME = "gpu0.here"
LEASE = 1.5


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """With a lease so short that a test can wait for its end."""
    made = make_world(worker={"lease_seconds": LEASE, "heartbeat_seconds": 0.1, "deaf_seconds": 1})
    made.add(8)
    assert made.reconcile() == 1
    return made


@pytest.fixture
def trainer(world: World) -> Iterator[Trainer]:
    made = Trainer(world.context.settings, NAME, QUEUES)
    yield made
    made.interrupt()
    made.heartbeat.join(20)
    made._context.registry.close()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that this process would have sent itself."""
    sent: list[int] = []

    class NoTimer:
        daemon = False

        def __init__(self, seconds: float, function: Callable[[int], None], arguments: list[int]) -> None:
            assert function is os._exit

        def start(self) -> None:
            pass

    monkeypatch.setattr(module.threading, "Timer", NoTimer)
    monkeypatch.setattr(module.os, "kill", lambda process, number: sent.append(number))
    return sent


def claim(world: World) -> Claim:
    """As a training of this worker would begin."""
    with world.context.registry.write() as session:
        patience = timedelta(seconds=30)
        found = leases.claim(
            session, worker=NAME, now=system_clock(), lease=timedelta(seconds=LEASE), patience=patience
        )
        assert found is not None
        return found


def soon(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def me(world: World) -> Worker:
    with world.context.registry.read() as session:
        (worker,) = workers.every(session)
        return worker


def is_leased(world: World, found: Claim) -> bool:
    with world.context.registry.read() as session:
        return leases.tokens(session) == [found.token]


@contextmanager
def registry_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    @contextmanager
    def away(self: Registry, *, exclusive: bool = False) -> Iterator[WriteSession]:
        raise Unavailable("The registry is away.")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "write", away)
        yield


def test_a_lease_is_kept_through_a_long_batch_and_a_registry_that_is_briefly_away(
    world: World, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.start()
    found = claim(world)
    trainer.lease.changed(found)
    time.sleep(2 * LEASE)  # a batch: nothing but the heartbeat asks
    assert is_leased(world, found)
    assert not trainer.is_interrupted()
    with registry_away(monkeypatch):
        time.sleep(LEASE / 2)
    time.sleep(LEASE)
    assert is_leased(world, found)
    assert not trainer.is_interrupted()
    soon(lambda: me(world).claimed_at)


def test_told_to_stop_it_gives_its_lease_back_before_the_batch_ends(world: World, trainer: Trainer) -> None:
    trainer.start()
    found = claim(world)
    trainer.lease.changed(found)
    trainer.interrupt()
    soon(lambda: not is_leased(world, found))
    assert world.clusters()[0].attempts == 0
    assert trainer.is_interrupted()


def test_a_lease_that_another_has_taken_over_interrupts_the_training(world: World, trainer: Trainer) -> None:
    trainer.start()
    found = claim(world)
    trainer.lease.changed(found)
    with world.context.registry.write() as session:
        assert leases.give_up(session, found)
    soon(trainer.is_interrupted)


def test_a_training_that_fails_for_want_of_the_registry_ends_neither_process_nor_later_work(
    world: World, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.start()

    def cut(*arguments: Any, **keywords: Any) -> None:
        raise Unavailable("The registry is away.")

    with monkeypatch.context() as patch:
        patch.setattr(training.leases, "publish", cut)
        patch.setattr(training.leases, "give_up", cut)
        trainer.train()  # nothing is raised
    (cluster,) = world.clusters()
    assert cluster.serving_key is None
    assert cluster.leased_until is not None
    trainer.train()  # gives back what it could not give back then
    (cluster,) = world.clusters()
    assert cluster.serving_key == cluster.desired_key
    assert cluster.attempts == 0
    assert me(world).name == NAME


def test_a_worker_with_other_settings_says_so_and_stays(
    world: World, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def other(*arguments: Any, **keywords: Any) -> None:
        raise Misconfigured("This registry was made with other settings.")

    monkeypatch.setattr(module, "train_one", other)
    with caplog.at_level(logging.ERROR):
        trainer.train()
    assert "made with other settings" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_worker_that_cannot_report_for_work_ends(
    world: World, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, ended: list[int]
) -> None:
    with registry_away(monkeypatch):
        trainer.start()
    assert ended == [signal.SIGTERM]
    assert trainer.status == FAILED


def test_a_stalled_worker_ends_and_an_idle_one_does_not(
    world: World, trainer: Trainer, ended: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The folder broker takes every notification, and no process of this test listens for any."""
    trainer.start()
    with caplog.at_level(logging.ERROR):
        soon(lambda: ended)
    assert "the broker takes notifications, and none arrives here" in caplog.text
    assert trainer.status == STALLED


def test_a_worker_without_work_has_not_stalled(world: World, trainer: Trainer, ended: list[int]) -> None:
    world.settle()
    trainer.start()
    time.sleep(3)
    assert ended == []


def test_a_worker_for_deletions_does_not_miss_additions(world: World, ended: list[int]) -> None:
    trainer = Trainer(world.context.settings, NAME, [DELETIONS])
    trainer.start()
    trainer.train()
    assert world.clusters()[0].serving_key is None
    time.sleep(3)
    assert ended == []
    assert me(world).queues == (DELETIONS,)
    trainer.stop()
    trainer.heartbeat.join(20)


def test_a_device_is_told_from_those_of_other_hosts_and_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    host = socket.gethostname()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_name("cuda:0") == f"cuda:0 on {host}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert device_name("cuda:0") == f"cuda:0 on {host} (CUDA_VISIBLE_DEVICES=3)"
    assert device_name("cpu") == f"cpu on {host}"


# ----------------------------------------------------------------------------------------------------- described anew


def forget_kinds(world: World) -> None:
    """As after an upgrade: the registry does not say which descriptors the samples' files have."""
    with world.context.registry.write() as session:
        descriptions.note(session, list(world.survivors), None)


def is_described(world: World) -> bool:
    with world.context.registry.read() as session:
        return descriptions.is_complete(session, world.context.backbone.kind.name, role="training")


def test_a_worker_describes_samples_anew_once_nothing_waits_to_be_trained(world: World, trainer: Trainer) -> None:
    forget_kinds(world)
    trainer.train()
    assert world.serving_keys() != []
    assert not is_described(world)
    trainer.train()
    assert is_described(world)


def test_a_worker_asks_to_be_called_again_while_samples_wait_to_be_described(
    world: World, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train()
    forget_kinds(world)
    monkeypatch.setattr(module, "REDESCRIBING", -1.0)
    notified: list[bool] = []
    monkeypatch.setattr(trainer, "_notify", lambda: notified.append(True))
    trainer.train()
    assert (notified, is_described(world)) == ([True], False)


def test_a_worker_for_deletions_alone_describes_nobody(world: World) -> None:
    forget_kinds(world)
    trainer = Trainer(world.context.settings, NAME, (DELETIONS,))
    trainer.train()
    trainer.interrupt()
    trainer._context.registry.close()
    assert not is_described(world)

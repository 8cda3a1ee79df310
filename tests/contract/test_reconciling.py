"""Finding work without being told: the reconciler's thread, its doorbell, and what a process is opened with."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from kombu import Message

from service.core import training
from service.core.opening import open_context
from service.core.reconciler import Reconciler
from service.errors import Misconfigured
from service.messaging.celery_app import TRAIN, make_celery, queue_name
from service.messaging.notifier import Notifier
from service.messaging.queues import ADDITIONS, DELETIONS, QUEUES
from service.registry import clusters, workers
from service.registry.tables import StateRow
from service.settings import Settings
from tests.world import MakeWorld, World, settings, sqlite_only


class Bell:
    """Hears what would have been rung."""

    def __init__(self) -> None:
        self.rung: list[int] = []
        self.urgent: list[int] = []

    def notify(self, times: int, *, urgent: bool = False) -> None:
        (self.urgent if urgent else self.rung).append(times)

    def flush(self, seconds: float) -> bool:
        return True


def soon(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def reconciler(world: World, bell: Bell) -> Iterator[Reconciler]:
    reconciler = Reconciler(world.context, bell)  # type: ignore[arg-type]
    yield reconciler
    reconciler.stop()


def hire(world: World, *names: str) -> None:
    """Workers that are alive."""
    with world.context.registry.write() as session:
        for name in names:
            workers.register(session, name=name, device="cpu", queues=QUEUES, now=world.time())


# ------------------------------------------------------------------------------------------------- the thread


def test_a_reconciler_begins_with_what_was_left_undone(world: World, reconciler: Reconciler, bell: Bell) -> None:
    hire(world, "worker")
    world.add(3)
    reconciler.start()
    soon(lambda: bell.rung)
    assert bell.rung[0] == 1
    assert world.train()


def test_a_reconciler_looks_at_once_when_it_is_woken(world: World, reconciler: Reconciler, bell: Bell) -> None:
    reconciler.start()
    soon(lambda: bell.rung)
    world.add(3)
    reconciler.wake()
    soon(lambda: world.clusters()[0].desired_key)


def test_no_more_is_rung_for_than_workers_are_there(world: World, reconciler: Reconciler, bell: Bell) -> None:
    world.add(40)
    hire(world, "one", "two", "gone")
    world.time.advance(world.context.settings.worker.fresh.total_seconds() + 1)
    with world.context.registry.write() as session:
        for name in ("one", "two"):
            workers.beat(session, name=name, now=world.time())
    reconciler.start()
    soon(lambda: bell.rung)
    assert len(world.clusters()) > 2
    assert bell.rung[0] == 2


def test_a_pass_that_fails_is_made_again(
    world: World, reconciler: Reconciler, bell: Bell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]
    unfinished = clusters.unfinished

    def fail(session: object) -> bool:
        if failing:
            failing.pop()
            raise ConnectionError("the database is away")
        return unfinished(session)  # type: ignore[arg-type]

    monkeypatch.setattr(clusters, "unfinished", fail)
    with caplog.at_level(logging.ERROR):
        reconciler.start()
        soon(lambda: not failing)
        reconciler.wake()
        soon(lambda: bell.rung)
    assert "reconciling failed" in caplog.text


def test_an_erasure_is_seen_through_by_reconciler_and_worker_alone(
    world: World, reconciler: Reconciler, bell: Bell
) -> None:
    hire(world, "worker")
    world.add(6)
    reconciler.start()
    soon(world.train)
    reconciler.wake()
    found = world.erase(next(iter(world.survivors)))
    reconciler.wake()
    soon(world.train)
    reconciler.wake()
    soon(lambda: world.erasure(found.id).state == "completed")
    world.check()


# ----------------------------------------------------------------------------------------------- the doorbell


def messages(folder: Path) -> list[Path]:
    return sorted((folder / "queue").glob("*.msg"))


def rung_bell(chosen: Settings, times: int, *, urgent: bool = False) -> Notifier:
    bell = Notifier(chosen)
    bell.notify(times, urgent=urgent)
    assert bell.flush(10)
    return bell


def test_ringing_leaves_whole_messages_that_say_nothing(tmp_path: Path) -> None:
    rung_bell(settings(tmp_path), 2)
    rung = messages(tmp_path)
    assert len(rung) == 2
    for message in rung:
        content = json.loads(message.read_text())
        assert content["headers"]["task"] == TRAIN
        assert content["headers"]["argsrepr"] == "()"


def test_every_message_is_taken_once_and_unreadable_ones_are_dropped(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    rung_bell(chosen, 2)
    messages(tmp_path)[0].write_text("{half a mess")
    name = queue_name(ADDITIONS)
    with make_celery(chosen).connection_for_read() as connection, connection.SimpleQueue(name) as queue:
        message = queue.get(block=False)
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)
    assert messages(tmp_path) == []


def test_a_broker_that_does_not_answer_delays_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = settings(tmp_path, broker_url="redis://127.0.0.1:1/0")
    bell = Notifier(absent)
    for _ in range(50):
        started = time.monotonic()
        bell.notify(3)
        assert time.monotonic() - started < 0.1
    assert bell.flush(5)
    assert not bell.notify_now(urgent=True)
    assert caplog.text.count("the broker does not answer") == 1  # news once


def test_a_broker_that_hangs_delays_nobody(tmp_path: Path) -> None:
    """It accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:
        bell = Notifier(settings(tmp_path, broker_url=f"redis://127.0.0.1:{hanging.getsockname()[1]}/0"))
        for _ in range(20):
            started = time.monotonic()
            bell.notify(3)
            assert time.monotonic() - started < 0.3
        started = time.monotonic()
        assert not bell.notify_now(urgent=True)
        assert time.monotonic() - started < 10  # nor does a heartbeat wait for long


def test_deletions_are_heard_first_by_a_worker_that_listens_to_both(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    rung_bell(chosen, 3)
    rung_bell(chosen, 3, urgent=True)
    app = make_celery(chosen)
    heard: list[str] = []
    with app.connection_for_read() as connection:
        queues = [app.amqp.queues[queue_name(queue)] for queue in QUEUES]

        def take(body: object, message: Message) -> None:
            heard.append(message.delivery_info["routing_key"])
            message.ack()

        with connection.Consumer(queues, callbacks=[take], accept=["json"]):
            while len(heard) < 6:
                connection.drain_events(timeout=10)
    assert heard == [queue_name(DELETIONS)] * 3 + [queue_name(ADDITIONS)] * 3


def test_a_bell_says_whether_it_is_for_a_deletion(world: World, reconciler: Reconciler, bell: Bell) -> None:
    with world.context.registry.write() as session:
        workers.register(session, name="both", device="cpu", queues=QUEUES, now=world.time())
        workers.register(session, name="one", device="cpu", queues=[DELETIONS], now=world.time())
    world.add(30)
    world.settle()
    world.erase(*list(world.survivors)[::5])
    reconciler.start()
    soon(lambda: any(bell.urgent))
    assert max(bell.urgent) <= 2
    assert max(bell.rung) <= 1  # one worker listens to additions


def test_a_worker_for_deletions_claims_nothing_else(world: World) -> None:
    world.add(30)
    world.reconcile()
    assert not training.train_one(world.context, worker="w", urgent=True)
    world.settle()
    sample = next(iter(world.survivors))
    world.add(1)
    world.erase(sample)
    world.reconcile()
    trained = 0
    while training.train_one(world.context, worker="w", urgent=True):
        trained += 1
    assert trained >= 1
    assert not [cluster for cluster in world.clusters() if cluster.urgent]


# ------------------------------------------------------------------------------------------------- the context


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"backbone": "resnet-of-my-own"}, "resnet-of-my-own"),
        ({"training": {"prompt_size": 500}}, "500"),
    ],
)
@sqlite_only
def test_settings_that_make_no_sense_are_refused_in_words(world: World, groups: dict[str, object], words: str) -> None:
    chosen = world.context.settings.model_dump() | {"database_url": None}
    for name, value in groups.items():
        chosen[name] = {**chosen[name], **value} if isinstance(value, dict) else value
    with pytest.raises(Misconfigured, match=words):
        open_context(Settings(**chosen))


def test_a_registry_of_another_backbone_is_refused(make_world: MakeWorld) -> None:
    world = make_world()
    with world.context.registry.write() as session:
        session.execute(sa.update(StateRow).values(backbone_digest="0" * 64))
    with pytest.raises(Misconfigured, match="was made with backbone 'tiny'"):
        make_world()

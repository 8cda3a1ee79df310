"""What breaks around the service: files damaged or lost, a clock set back, a full disk, workers killed or doubled.

Each ends as the survivors imply, or in words that say what to do; meanwhile nothing is served that the registry does
not stand behind. A crash at each step of a training, by injection: test_crashes.py.
"""

import errno
import logging
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Event

import pytest

from service.clock import system_clock
from service.core import training
from service.core.audit import Scope, audit
from service.core.context import open_context
from service.core.idempotency import RUNNING, Ticket, once
from service.core.reconcile import UNRECORDED_KEPT, tidy
from service.errors import OutOfSpace
from service.registry import prompts, samples
from service.serving.engine import Answer, Engine, Query
from service.serving.snapshot import take_snapshot
from service.settings import Settings
from tests.contract.test_concurrency import running
from tests.disks import Disk, small_disk
from tests.world import MakeWorld, World, lease, meanwhile, prompt_objects, sqlite_only

DAY = 86_400.0


def answer(world: World, engine: Engine, count: int = 24) -> list[Answer]:
    """Answers to pictures from all over the line, each by a prompt that is served."""
    resize = world.context.backbone.preprocessing.resize
    pictures = [newcomer.picture for newcomer in world.newcomers(count)]
    answers = engine.predict([Query(resize(picture.pixels), picture.digest) for picture in pictures])
    assert [type(found) for found in answers] == [Answer] * count
    assert {found.prompt for found in answers if isinstance(found, Answer)} <= set(world.serving_keys())
    return [found for found in answers if isinstance(found, Answer)]


def complaints(world: World) -> list[str]:
    """What an audit finds."""
    return [f"{finding.subject} {finding.reason}" for finding in audit(world.context, Scope())]


def artifact(world: World, key: str) -> str:
    """The object that a served prompt is in."""
    with world.context.registry.read() as session:
        return prompts.get(session, [key])[key].object_name


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "damage",
    [
        lambda own, other: own[:-1],
        lambda own, other: own[:8],
        lambda own, other: other,
        lambda own, other: b"\x80\x04N.",
    ],
    ids=["cut", "header cut", "another's", "a pickle"],
)
def test_a_damaged_artifact_answers_nobody_while_others_do_and_is_built_again(
    settled: World, damage: Callable[[bytes, bytes], bytes]
) -> None:
    key, other = settled.serving_keys()[:2]
    store, name = settled.context.store, artifact(settled, key)
    store.put(name, damage(store.get(name), store.get(artifact(settled, other))))
    assert len(complaints(settled)) == 1
    assert f"prompt {key}, which is damaged" in complaints(settled)[0]
    engine = Engine(settled.context)
    assert key not in {found.prompt for found in answer(settled, engine)}
    settled.settle()
    settled.check()
    assert key in engine.refresh().bank.keys
    assert complaints(settled) == []


@pytest.mark.parametrize("which", ["sample", "prompt"])
def test_a_file_that_the_disk_cannot_read_is_named_and_stops_nobody_else(
    settled: World, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    sample = settled.samples()[0]
    cluster = settled.cluster_of(sample)
    lost = samples.object_name(sample.id) if which == "sample" else artifact(settled, cluster.serving_key or "")
    read = settled.context.store.get

    def get(name: str) -> bytes:
        if name == lost:
            raise OSError(errno.EIO, "Input/output error")
        return read(name)

    monkeypatch.setattr(settled.context.store, "get", get)
    assert any(which in complaint for complaint in complaints(settled))
    answer(settled, Engine(settled.context))


def test_a_sample_cut_short_stops_its_own_cluster_alone_and_is_named_with_its_remedy(settled: World) -> None:
    (newest,) = settled.add(1)
    path = settled.file_of(samples.object_name(newest.id))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    settled.add(20)
    settled.reconcile()
    while settled.train():
        pass
    failed = settled.cluster_of(newest)
    assert failed.desired_key not in settled.serving_keys()
    assert f"Sample {newest.id} cannot be trained on: it cannot be read" in (failed.failure or "")
    assert "Restore its file from a backup, or erase the sample." in (failed.failure or "")
    assert [cluster.id for cluster in settled.clusters() if cluster.differs] == [failed.id]
    assert any(f"sample {newest.id} is damaged" in complaint for complaint in complaints(settled))
    answer(settled, Engine(settled.context))
    path.write_bytes(whole)
    settled.settle()
    settled.check()


# ------------------------------------------------------------------------------------------------ registry and store


def test_a_prompt_without_its_file_is_named_answers_nobody_and_is_built_again(settled: World) -> None:
    key = settled.serving_keys()[0]
    settled.context.store.delete(artifact(settled, key))
    assert any(f"prompt {key}, which has no file in the store" in complaint for complaint in complaints(settled))
    assert key not in {found.prompt for found in answer(settled, Engine(settled.context))}
    settled.settle()
    settled.check()


def test_an_erasure_whose_bytes_somebody_has_destroyed_before_is_completed(settled: World) -> None:
    sample = settled.samples()[0]
    settled.context.store.delete(samples.object_name(sample.id))
    settled.context.store.delete(artifact(settled, settled.cluster_of(sample).serving_key or ""))
    settled.erase(sample.id)
    settled.settle()
    settled.check()


@sqlite_only
def test_a_registry_restored_from_before_an_erasure_serves_nothing_that_knew_the_sample(
    settled: World, tmp_path: Path
) -> None:
    victim = settled.samples()[0]
    known_by = settled.cluster_of(victim).serving_key
    live, backup = settled.folder / "registry.db", tmp_path / "backup.db"
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    settled.erase(victim.id)
    settled.settle()
    settled.close()
    backup.replace(live)
    settled.restart()
    assert known_by in settled.serving_keys()  # as the old registry has it
    assert known_by not in take_snapshot(settled.context, None).bank.keys
    assert known_by not in settled.serving_keys()
    settled.reconcile()
    while settled.train():
        pass
    failure = settled.cluster_of(victim).failure or ""
    assert f"Sample {victim.id} cannot be trained on: its file is missing" in failure
    assert "erase the sample" in failure
    settled.erase(victim.id)
    settled.time.advance(2 * DAY)
    settled.settle()
    tidy(settled.context)  # what the old registry does not know of
    settled.check()


@pytest.mark.parametrize("name", ["samples/notes.txt", "samples/ab/notes.txt", "prompts/ab/.nfs0001"])
def test_a_stranger_s_file_among_the_objects_does_not_end_tidying(settled: World, name: str) -> None:
    path = settled.folder / "objects" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"put here by hand")
    tidy(settled.context)


# ------------------------------------------------------------------------------------------------------------- clocks


def resumes_within(world: World, seconds: float) -> bool:
    """Whether a worker finds something to train, if all look once a second from now on."""
    for _ in range(int(seconds) + 1):
        world.reconcile()
        if world.train("heir"):
            return True
        world.time.advance(1)
    return False


@pytest.fixture(params=[3600.0, DAY], ids=["an hour", "a day"])
def set_back(request: pytest.FixtureRequest) -> float:
    return float(request.param)


def test_a_lease_outlives_no_clock_that_is_set_back(planned: World, set_back: float) -> None:
    assert planned.kill_at("build")
    planned.time.advance(-set_back)
    assert resumes_within(planned, lease(planned))


def test_a_pause_after_a_failure_outlives_no_clock_that_is_set_back(
    planned: World, monkeypatch: pytest.MonkeyPatch, set_back: float
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(planned.context.store, "put", lambda name, data: 1 / 0)
        planned.train()
    planned.time.advance(-set_back)
    assert resumes_within(planned, planned.context.settings.training.retry_seconds)


def test_a_quiet_time_outlives_no_clock_that_is_set_back(make_world: MakeWorld, set_back: float) -> None:
    patient = make_world(training={"settle_seconds": 5, "settle_max_seconds": 12})
    patient.add(4)
    patient.time.advance(-set_back)
    assert resumes_within(patient, patient.context.settings.training.settle_max_seconds)


def test_an_idempotency_key_of_a_dead_request_outlives_no_clock_that_is_set_back(world: World, set_back: float) -> None:
    def request() -> AbstractContextManager[Ticket]:
        return once(world.context, "POST /samples", "key", "d" * 64, caller="app")

    with request():
        world.time.advance(-set_back)
        tidy(world.context)
        world.time.advance(RUNNING.total_seconds() + 1)
        with request() as ticket:
            assert ticket.key_digest is not None


@pytest.mark.parametrize("step", ["build", "epoch 1", "publish"])
def test_a_training_goes_on_when_the_clock_is_set_back(planned: World, set_back: float, step: str) -> None:
    assert planned.train(step=meanwhile(step, lambda: planned.time.advance(-set_back)))
    assert len(planned.serving_keys()) == 1
    assert planned.is_settled()
    planned.check()


@pytest.mark.parametrize("left", ["a lease", "a failure", "a quiet time"])
def test_an_erasure_waits_for_no_time_that_was_noted_before_the_clock_was_set_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, set_back: float, left: str
) -> None:
    world = make_world(training={"settle_seconds": 5})
    world.add(8)
    world.settle()
    world.add(2)
    world.time.advance(5 if left != "a quiet time" else 0)
    world.reconcile()
    if left == "a lease":
        assert world.kill_at("commit")
    elif left == "a failure":
        with monkeypatch.context() as patch:
            patch.setattr(world.context.store, "put", lambda name, data: 1 / 0)
            assert world.train()
    world.time.advance(-set_back)
    found = world.erase(world.samples()[0].id)
    assert resumes_within(world, 0)
    world.reconcile()
    assert world.erasure(found.id).state == "completed"
    world.check()


def test_tidying_takes_nothing_that_is_known_when_the_clock_is_set_back_and_forth(
    settled: World, set_back: float
) -> None:
    for seconds in (-set_back, 2 * set_back, -set_back):
        settled.time.advance(seconds)
        tidy(settled.context)
        settled.check()


@pytest.mark.xfail(
    reason="an object's age is told by the clock: when that leaps, an object of a moment ago is old",
    raises=AssertionError,
)
def test_a_clock_that_leaps_ahead_costs_no_sample_that_is_being_taken_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = world.context.store.put

    def leap(name: str, data: bytes) -> None:
        put(name, data)
        world.time.advance(2 * UNRECORDED_KEPT.total_seconds())
        tidy(world.context)

    with monkeypatch.context() as patch:
        patch.setattr(world.context.store, "put", leap)
        world.add(1)
    assert world.objects() == {samples.object_name(sample.id) for sample in world.samples()}


# ---------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """What the data folder is on: the objects, and with SQLite the registry."""
    with small_disk(tmp_path / "data") as disk:
        yield disk


@pytest.fixture
def cramped(disk: Disk, make_world: MakeWorld) -> World:
    """One cluster that waits for a worker, on a small disk."""
    world = make_world()
    world.add(8)
    assert world.reconcile() == 1
    return world


@pytest.mark.parametrize("step", ["build", "publish", "store", "commit"])
def test_a_disk_that_fills_up_during_a_training_serves_nothing_until_there_is_room(
    disk: Disk, cramped: World, step: str
) -> None:
    with suppress(OutOfSpace):  # the registry on that disk cannot even record the failure
        cramped.train(step=meanwhile(step, disk.fill))
    if not cramped.context.registry.is_sqlite and step == "commit":
        assert len(cramped.serving_keys()) == 1  # stored before the disk was full, and the registry is elsewhere
    else:
        assert cramped.serving_keys() == prompt_objects(cramped) == []
        assert take_snapshot(cramped.context, None).served == []
    disk.free()
    assert list(disk.folder.rglob(".tmp-*")) == []
    cramped.time.advance(max(lease(cramped), cramped.context.settings.training.retry_seconds))
    cramped.reconcile()
    cramped.train("heir")
    cramped.reconcile()
    cramped.check()


def test_an_erasure_accepted_before_the_disk_was_full_is_completed_once_there_is_room(
    disk: Disk, cramped: World
) -> None:
    cramped.settle()
    served = cramped.serving_keys()
    found = cramped.erase(cramped.samples()[0].id)
    for work in (cramped.reconcile, cramped.train):
        disk.fill()  # again: destroying has made room
        with suppress(OutOfSpace):
            work()
    assert cramped.serving_keys() == []
    assert not set(served) & set(take_snapshot(cramped.context, None).bank.keys)
    assert cramped.erasure(found.id).state != "completed"
    disk.free()
    cramped.settle()
    cramped.check()


@sqlite_only
def test_an_erasure_that_a_full_disk_refuses_changes_nothing_and_can_be_asked_for_again(
    disk: Disk, cramped: World
) -> None:
    cramped.settle()
    victim = cramped.samples()[0].id
    with disk.full():
        with pytest.raises(OutOfSpace, match="disk is full"):
            cramped.erase(victim)
        cramped.check()
    cramped.erase(victim)
    cramped.settle()
    cramped.check()


def test_a_full_disk_accepts_no_sample_records_nothing_and_leaves_nothing(disk: Disk, cramped: World) -> None:
    cramped.settle()
    newcomers = cramped.newcomers(3, owner="bob")
    with disk.full():
        with pytest.raises(OSError, match="No space left"):
            cramped.take_in(newcomers)
        cramped.check()
        assert list(disk.folder.rglob(".tmp-*")) == []
    cramped.take_in(newcomers)
    cramped.settle()
    cramped.check()


# ------------------------------------------------------------------------------------------- workers killed or doubled


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


@pytest.fixture
def pair(planned: World, make_world: MakeWorld) -> tuple[World, World]:
    """One registry and store as two processes see them; a cluster waits."""
    other = make_world()
    other.time = planned.time
    other.restart()
    return planned, other


def test_of_two_workers_that_ask_at_once_one_gets_the_cluster(pair: tuple[World, World]) -> None:
    together = Barrier(2)
    trained: list[bool] = []

    def work(world: World, name: str) -> None:
        together.wait(30)
        trained.append(world.train(name))

    with running(lambda: work(pair[0], "one"), lambda: work(pair[1], "two")):
        pass
    assert sorted(trained) == [False, True]
    pair[0].check()


def test_of_two_workers_that_publish_one_cluster_at_once_the_second_to_claim_it_does(pair: tuple[World, World]) -> None:
    """The first stood still before it published, for longer than its lease."""
    late, heir = pair
    claimed, together = Event(), Barrier(2)
    tokens: list[str] = []

    def publish_together(step: str) -> None:
        if step == "publish":
            claimed.set()
            together.wait(60)

    def work(world: World, name: str) -> None:
        training.train_one(
            world.context,
            worker=name,
            step=publish_together,
            held=lambda claim: tokens.append(claim.token) if claim is not None else None,
        )

    with running(lambda: work(late, "late")):
        assert claimed.wait(60)
        late.time.advance(lease(late))
        work(heir, "heir")
    assert len(tokens) == 2
    assert prompt_objects(late) == [prompts.unpublished_name(tokens[1])]
    late.reconcile()
    late.check()


def test_a_worker_that_was_overtaken_is_no_failure_in_the_log(planned: World, caplog: pytest.LogCaptureFixture) -> None:
    def overtake() -> None:
        planned.time.advance(lease(planned))
        assert planned.train("heir")

    with caplog.at_level(logging.WARNING):
        planned.train("late", step=meanwhile("publish", overtake))
    assert caplog.records == []

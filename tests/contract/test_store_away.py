"""A store that is away: nothing is half done, no cluster is to blame, no transaction waits, and all is made up for."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from uuid6 import uuid7

from service.artifacts import FolderStore, StoreRefuses, StoreUnavailable
from service.core import ledger, reconcile, tidy
from service.core.audit import Scope, audit
from service.core.erasure_progress import advance
from service.core.replan import replan
from service.errors import STORE_AWAY, Conflict, Misconfigured
from service.registry import destructions, samples
from service.registry.records import Sample
from service.serving.snapshot import take_snapshot
from tests.disks import small_disk
from tests.layouts import KINDS
from tests.world import MakeWorld, World, prompt_objects, sqlite_only

WORDS = "bucket photos at http://store:9000 does not answer in time."


class Away:
    """The store of a world, some of whose calls do not get through."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.calls: list[tuple[str, str]] = []
        self.pause = 0.0  # seconds until it is noticed
        self._patch = monkeypatch

    @contextmanager
    def during(self, *calls: str, carried_out: bool = False, prefix: str = "") -> Iterator[None]:
        """carried_out: it is done all the same, and only the answer is lost."""
        store = self.world.context.store
        with self._patch.context() as patch:
            for call in calls:
                patch.setattr(store, call, self._failing(call, getattr(store, call), carried_out, prefix))
            yield

    def _failing(self, call: str, real: Any, carried_out: bool, prefix: str) -> Any:
        def fail(*arguments: Any) -> Any:
            name = arguments[0] if arguments else prefix
            name = name if isinstance(name, str) else name[0][0]  # the first of many
            if not name.startswith(prefix):
                return real(*arguments)
            self.calls.append((call, name))
            time.sleep(self.pause)
            if carried_out:
                real(*arguments)
            raise StoreUnavailable(WORDS)

        return fail


@pytest.fixture
def away(world: World, monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(world, monkeypatch)


def pass_by(world: World) -> None:
    """The pause after a failed training."""
    world.time.advance(world.context.settings.training.retry_seconds)


# ------------------------------------------------------------------------------------------------------- intake


def test_what_cannot_be_stored_is_not_recorded(world: World, away: Away) -> None:
    new_samples = world.new_samples(3)
    with away.during("put_many", "delete"), pytest.raises(StoreUnavailable):
        world.take_in(new_samples)
    assert world.samples() == []
    assert len(away.calls) == 2  # one attempt to put, one to delete: the others would fare no better
    world.take_in(new_samples)
    world.settle()
    world.check()


def test_what_was_recorded_is_acknowledged_though_the_rest_cannot_be_destroyed(world: World, away: Away) -> None:
    copies = [world.new_sample()] * 7  # one more than is accepted
    with away.during("delete"):
        results = world.take_in(copies)
    assert [type(result) for result in results] == [Sample] * 6 + [Conflict]
    assert len(world.objects()) == 7
    world.time.advance(2 * tidy.UNRECORDED_KEPT.total_seconds())
    tidy.tidy(world.context)
    assert len(world.objects()) == 6


def test_what_was_stored_without_an_answer_is_destroyed_in_the_end(world: World, away: Away) -> None:
    with away.during("put_many", "delete", carried_out=True), pytest.raises(StoreUnavailable):
        world.take_in(world.new_samples(2))
    with away.during("delete"), away.during("put_many", carried_out=True), pytest.raises(StoreUnavailable):
        world.take_in(world.new_samples(2))
    assert len(world.objects()) == 3
    world.time.advance(2 * tidy.UNRECORDED_KEPT.total_seconds())
    tidy.tidy(world.context)
    assert world.objects() == set()


# ------------------------------------------------------------------------------------------------------ training


@pytest.fixture
def waiting(world: World) -> World:
    """A cluster that waits for a worker."""
    world.add(8)
    assert world.reconcile() == 1
    return world


@pytest.mark.parametrize("call", ["check", "put", "get"])
def test_a_training_that_the_store_prevents_is_tried_again_and_is_nobodys_failure(
    waiting: World, away: Away, call: str
) -> None:
    for _ in range(waiting.context.settings.training.attempts + 1):
        with away.during(call):
            assert waiting.train()
        (cluster,) = waiting.clusters()
        assert cluster.failure == f"{STORE_AWAY} It is tried again by itself."
        assert (cluster.serving_key, cluster.attempts) == (None, 0)
        assert not waiting.train()  # not at once
        assert prompt_objects(waiting) == []
        pass_by(waiting)
    waiting.settle()
    waiting.check()


def test_a_prompt_that_was_stored_without_an_answer_is_owed_to_destruction(waiting: World, away: Away) -> None:
    with away.during("put", carried_out=True), away.during("delete"):
        assert waiting.train()
    assert len(prompt_objects(waiting)) == 1
    with waiting.context.registry.read() as session:
        assert destructions.pending(session) == prompt_objects(waiting)
    waiting.reconcile()
    assert prompt_objects(waiting) == []
    pass_by(waiting)
    waiting.settle()
    waiting.check()


def test_a_prompt_that_may_yet_arrive_is_owed_to_destruction(waiting: World, away: Away) -> None:
    """The store is there again, and destroys what it does not hold yet."""
    with away.during("put"):
        assert waiting.train()
    with waiting.context.registry.read() as session:
        (owed,) = destructions.pending(session)
    waiting.context.store.put(owed, b"arrives late")
    waiting.reconcile()
    assert prompt_objects(waiting) == []


@sqlite_only
def test_a_store_that_hangs_holds_up_no_writer(waiting: World, away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for it holds no lock: it is asked before the transaction that publishes."""

    def hang() -> None:
        waiting.erase(next(iter(waiting.survivors)))  # would not return while a transaction is open
        raise StoreUnavailable(WORDS)

    with monkeypatch.context() as patch:
        patch.setattr(waiting.context.store, "check", hang)
        assert waiting.train()
    assert len(waiting.survivors) == 7
    waiting.settle()
    waiting.check()


# ------------------------------------------------------------------------------------------------------- erasure


def test_an_erasure_is_accepted_at_once_and_completed_when_the_store_is_back(world: World, away: Away) -> None:
    world.add(30)
    world.settle()
    victims = [sample.id for sample in world.samples()[:12]]
    with away.during("delete", "names", "check"):
        found = world.erase(*victims)
        for _ in range(world.context.settings.training.attempts + 1):
            world.reconcile()
        assert world.erasure(found.id).state == "failed"  # visible, and tried again
    deletes = [name for call, name in away.calls if call == "delete"]
    passes = world.context.settings.training.attempts + 1
    assert passes <= len(deletes) <= passes * reconcile.DESTROYERS  # not all of them, one after the other
    assert {samples.object_name(victim) for victim in victims} <= world.objects()
    world.settle()
    world.check()


@pytest.mark.parametrize("failure", [StoreRefuses(WORDS), StoreUnavailable(WORDS)], ids=["refused", "away"])
def test_one_object_that_is_never_destroyed_keeps_no_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    """One under a retention rule, say."""
    world.add(30)
    world.settle()
    locked, *others = [sample.id for sample in world.samples()]
    found = world.erase(locked), world.erase(*others)
    delete = world.context.store.delete

    def refuse(name: str) -> None:
        if name == samples.object_name(locked):
            raise failure
        delete(name)

    with monkeypatch.context() as patch:
        patch.setattr(world.context.store, "delete", refuse)
        for _ in range(200):
            world.reconcile()
            if world.objects() == {samples.object_name(locked)}:
                break
        for _ in range(world.context.settings.training.attempts):
            world.reconcile()
        assert world.objects() == {samples.object_name(locked)}
        assert world.erasure(found[0].id).state == "failed"
        assert world.erasure(found[1].id).state == "completed"
    world.settle()
    world.check()


def test_nothing_is_completed_while_the_store_does_not_say_what_it_holds(world: World, away: Away) -> None:
    """A layout that a killed move has left there may know the erased."""
    world.add(8)
    world.settle()
    found = world.erase(world.samples()[0].id)
    with away.during("names"):
        for _ in range(3):
            world.reconcile()
            world.train()
        assert world.erasure(found.id).state != "completed"
    world.settle()
    world.check()


def do_all_but_advance(world: World) -> None:
    replan(world.context)
    while world.train():
        pass
    reconcile.destroy_pending(world.context)
    ledger.write_missing(world.context)


@sqlite_only
def test_an_erasure_accepted_after_the_look_is_not_completed_by_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed move has stored since then may know who was accepted since then. And nobody waits for the look."""
    world.add(8)
    world.settle()
    world.erase(world.samples()[0].id)
    do_all_but_advance(world)
    late, names = [], world.context.store.names

    def slow(prefix: str) -> Iterator[str]:
        listed = list(names(prefix))
        if not late:
            late.append(world.erase(world.samples()[0].id))  # would not return while a transaction is open
            do_all_but_advance(world)
            world.context.store.put(f"layouts/{uuid7()}.safetensors", b"of a move that was killed")
        return iter(listed)

    monkeypatch.setattr(world.context.store, "names", slow)
    advance(world.context)
    assert late
    assert world.erasure(late[0].id).state != "completed"
    world.settle()
    world.check()


def test_processes_that_are_gone_are_forgotten_though_the_store_is_away(world: World, away: Away) -> None:
    world.time.advance(timedelta(days=2).total_seconds())
    with away.during("names"), pytest.raises(StoreUnavailable):
        tidy.tidy(world.context)
    for index in range(2 * tidy.CHUNK + 5):
        world.context.store.put(f"samples/0198f2aa-7b1c-7000-8000-{index:012x}", b"stray")
    tidy.tidy(world.context)
    assert world.objects() == set()


# ------------------------------------------------------------------------------------------------- serving and moves


def test_a_prompt_that_cannot_be_read_is_not_waited_for_again_at_once(world: World, away: Away) -> None:
    world.add(30)
    world.settle()
    away.pause = 0.1
    with away.during("get"):
        first = take_snapshot(world.context, None)
        assert first.served == []
        assert len(away.calls) == 1  # the others would fare no better
        assert take_snapshot(world.context, first) is first
        assert len(away.calls) == 1
        time.sleep(max(0.0, first.again - time.monotonic()) + 0.01)
        assert take_snapshot(world.context, first) is not first
        assert len(away.calls) == 2
    assert len(take_snapshot(world.context, first).served) == len(world.clusters())


def test_prompts_in_memory_go_on_serving(world: World, away: Away) -> None:
    world.add(30)
    world.settle()
    before = take_snapshot(world.context, None)
    world.erase(world.samples()[0].id)
    with away.during("get", "check", "put", "names", "delete"):
        after = take_snapshot(world.context, before)
        assert 0 < len(after.served) < len(before.served)
        assert away.calls == []


@pytest.mark.parametrize("call", ["get", "check", "put"])
def test_a_move_waits_for_the_store(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    world = make_world(partition=KINDS["anchors"])
    away = Away(world, monkeypatch)
    world.add(40)
    with away.during(call):
        assert not replan(world.context)
    assert away.calls
    world.settle()
    world.check()


def test_an_audit_says_that_the_store_does_not_answer(world: World, away: Away) -> None:
    world.add(4)
    world.settle()
    with away.during("names"):
        found = [(finding.subject, finding.reason) for finding in audit(world.context, Scope())]
    assert ("store", f"does not say which samples it holds: {WORDS}") in found


# ------------------------------------------------------------------------------------------------ folders, and HTTP


def test_a_new_registry_refuses_what_another_one_holds(make_world: MakeWorld, tmp_path: Path) -> None:
    FolderStore(tmp_path / "elsewhere").put("samples/0198f2aa", b"somebody's")
    with pytest.raises(Misconfigured, match="prefix of its own"):
        make_world(store_url=str(tmp_path / "elsewhere"))
    assert FolderStore(tmp_path / "elsewhere").get("samples/0198f2aa") == b"somebody's"


def test_a_folder_on_a_disk_that_becomes_read_only_records_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        world = make_world(store_url=(disk.folder / "objects").as_uri())
        world.add(8)
        world.settle()
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        with pytest.raises(OSError) as caught:
            world.take_in(world.new_samples(1))
        assert caught.value.errno == errno.EROFS
        found = world.erase(world.samples()[0].id)
        world.reconcile()
        world.train()
        assert world.clusters()[0].failure == f"{STORE_AWAY} It is tried again by itself."
        assert world.erasure(found.id).state != "completed"
        subprocess.run(["mount", "-o", "remount,rw", disk.folder], check=True)
        pass_by(world)
        world.settle()
        world.check()

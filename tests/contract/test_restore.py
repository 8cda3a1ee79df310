"""A backup is restored: what was erased since it was taken is found, and forgotten once more."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.core import erasure, ledger, restore
from service.core.audit import Scope, audit
from service.core.tidy import tidy
from service.errors import Conflict
from service.registry import samples, state, workers
from service.registry.records import Erasure
from service.registry.tables import ClusterRow, SampleRow
from service.serving.snapshot import take_snapshot
from tests.backups import Backup, apply, check, forget, settle, sound
from tests.layouts import KINDS
from tests.world import DAY, Killed, MakeWorld, World


@pytest.fixture
def safe(make_world: MakeWorld, tmp_path: Path) -> World:
    """Thirty samples, everything trained, and a ledger that no restore of the data folder turns back."""
    return settle(make_world(ledger_url=str(tmp_path / "ledger")))


# ------------------------------------------------------------------------------------------- what has come back


def test_what_was_erased_since_the_backup_is_named_and_forgotten_again(safe: World) -> None:
    backup = Backup(safe)
    one, two, three = list(safe.survivors)[3:6]
    first, second = forget(safe, backup, one), forget(safe, backup, two, three)
    backup.restore()
    served = set(safe.serving_keys())
    assert {sample.id for sample in safe.samples()} >= {one, two, three}  # they are back, as good as ever
    found = check(safe)
    assert found.returned == {one: first.id, two: second.id, three: second.id}
    assert found.unknown == [first.id, second.id]
    assert (found.seen, found.objects, found.unwritten, found.illegible) == ([], [], [], {})

    apply(safe)
    assert not {sample.id for sample in safe.samples()} & {one, two, three}
    assert not safe.objects() & {samples.object_name(sample_id) for sample_id in (one, two, three)}
    assert set(take_snapshot(safe.context, None).keys) == set(safe.serving_keys()) < served
    again = safe.erasure(second.id)  # its client knows it by the same id
    assert (again.samples, again.accepted_at, again.due_at) == (2, second.accepted_at, second.due_at)
    sound(safe, backup)
    assert {found.state for found in safe.erasures()} == {"completed"}


def test_an_evaluation_sample_is_forgotten_again_and_no_prompt_is_withdrawn_for_it(safe: World) -> None:
    apart = safe.add(3, owner="secret-eve", role="evaluation")
    backup = Backup(safe)
    erased = forget(safe, backup, *(sample.id for sample in apart))
    before = safe.serving_keys()
    backup.restore()
    assert check(safe).returned == {sample.id: erased.id for sample in apart}
    apply(safe)
    assert safe.serving_keys() == before
    sound(safe, backup)
    with safe.context.registry.read() as session:
        assert samples.count_owners(session) == 1


def test_an_adapter_that_comes_back_with_an_erased_core_sample_is_withdrawn_again(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = make_world(ledger_url=str(tmp_path / "ledger"))
    world.add(8, "museum", "core")
    settle(world, 10)
    backup = Backup(world)
    before = {name for name in world.objects() if name.startswith("adapted/")}
    forget(world, backup, next(one.id for one in world.survivors.values() if one.role == "core"))
    backup.restore()
    assert before <= world.objects()
    apply(world)
    assert not before & world.objects()
    sound(world, backup)


def test_what_serves_in_the_end_is_what_served_before_the_restore(safe: World) -> None:
    backup = Backup(safe)
    forget(safe, backup, *list(safe.survivors)[:4])
    before = safe.serving_keys()
    backup.restore()
    apply(safe)
    sound(safe, backup)
    assert safe.serving_keys() == before


def test_applying_again_changes_nothing(safe: World) -> None:
    backup = Backup(safe)
    forget(safe, backup, next(iter(safe.survivors)))
    backup.restore()
    found = check(safe)
    restore.apply(safe.context, found)
    with safe.context.registry.read() as session:
        epoch = state.epoch(session)
    apply(safe)
    with safe.context.registry.read() as session:
        assert state.epoch(session) == epoch
    restore.apply(safe.context, found)  # by a check that was made before
    sound(safe, backup)
    assert [sorted(found.reading.tombstones)] == [sorted(check(safe).reading.tombstones)]


def test_one_that_was_killed_half_way_is_finished_by_the_next(safe: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = Backup(safe)
    for sample_id in list(safe.survivors)[:3]:
        forget(safe, backup, sample_id)
    backup.restore()
    monkeypatch.setattr(restore, "CHUNK", 1)
    replay, done = erasure.replay, []

    def dying(*arguments: object) -> Erasure | None:
        if len(done) == 2:
            raise Killed
        done.append(arguments)
        return replay(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(erasure, "replay", dying)
    with pytest.raises(Killed):
        apply(safe)
    monkeypatch.undo()
    assert len(check(safe).returned) == 1
    apply(safe)
    sound(safe, backup)


def test_an_erasure_of_samples_that_came_after_the_backup_is_put_on_record(safe: World) -> None:
    backup = Backup(safe)
    late = forget(safe, backup, safe.add(1)[0].id)
    backup.restore()
    found = check(safe)
    assert (found.returned, found.unknown) == ({}, [late.id])
    apply(safe)
    assert safe.erasure(late.id).state == "completed"
    sound(safe, backup)


@pytest.mark.parametrize("kind", ["anchors", "random"])
def test_whatever_the_partition(make_world: MakeWorld, tmp_path: Path, kind: str) -> None:
    world = settle(make_world(ledger_url=str(tmp_path / "ledger"), partition=KINDS[kind]), 40)
    backup = Backup(world)
    forget(world, backup, *list(world.survivors)[:6])
    backup.restore()
    apply(world)
    sound(world, backup)


# ------------------------------------------------------------------- database and objects of different moments


def test_objects_without_rows_are_destroyed_at_once(safe: World) -> None:
    backup = Backup(safe)
    gone = next(iter(safe.survivors))
    forget(safe, backup, gone)
    backup.restore_objects()  # the database is the newer
    found = check(safe)
    assert (found.returned, found.objects) == ({}, [samples.object_name(gone)])
    apply(safe)
    assert samples.object_name(gone) not in safe.objects()
    assert check(safe).is_clean


def test_rows_whose_objects_went_before_they_were_copied_are_forgotten(safe: World) -> None:
    backup = Backup(safe)
    forget(safe, backup, *list(safe.survivors)[:2])
    backup.restore_database()  # the objects are the newer: copied after the erasure
    assert len(check(safe).returned) == 2
    apply(safe)
    assert check(safe).is_clean
    safe.survivors = dict(backup.survivors)
    for _ in range(3):  # restored prompts have no files: the process that loads them has them built again
        take_snapshot(safe.context, None)
        safe.settle()
    safe.time.advance(DAY)
    tidy(safe.context)  # prompts that were trained after the database was dumped
    safe.check()


def test_a_prompt_that_has_seen_an_erased_sample_is_withdrawn_though_its_row_did_not_come_back(safe: World) -> None:
    backup = Backup(safe)
    victim = safe.survivors[list(safe.survivors)[4]]
    forget(safe, backup, victim.id)
    backup.restore()
    cluster = safe.cluster_of(victim)
    with safe.context.registry.write() as session:  # as if rows and prompts were of two moments
        session.execute(sa.delete(SampleRow).where(SampleRow.id == victim.id))
        session.execute(sa.update(ClusterRow).where(ClusterRow.id == cluster.id).values(samples=cluster.samples - 1))
    found = check(safe)
    assert (found.returned, found.seen) == ({}, [victim.id])
    assert found.objects == [samples.object_name(victim.id)]
    apply(safe)
    assert cluster.serving_key not in safe.serving_keys()
    sound(safe, backup)


def test_a_row_that_came_back_by_itself_is_erased_under_another_record(safe: World) -> None:
    """The registry knows the erasure, so its id is taken."""
    backup = Backup(safe)
    victim = next(iter(safe.survivors))
    first = forget(safe, backup, victim)
    with safe.context.registry.read() as session:
        kept = ledger.rows.tombstones(session, [first.id])
    backup.restore()
    apply(safe)
    assert kept == list(check(safe).reading.tombstones.values())
    safe.settle()
    pattern = safe.samples()[0]
    with safe.context.registry.write() as session:
        again = replace(pattern, id=victim, created_at=safe.time())
        samples.insert_all(session, [again], samples.ensure_owners(session, [pattern.owner]), kind="")
        of_cluster = ClusterRow.id == pattern.cluster
        session.execute(sa.update(ClusterRow).where(of_cluster).values(samples=ClusterRow.samples + 1))
    assert check(safe).returned == {victim: first.id}
    apply(safe)
    sound(safe, backup)
    assert len(safe.erasures()) == 2


# ------------------------------------------------------------------------------------------------- at the wrong time


def test_nothing_is_applied_while_the_service_runs(safe: World) -> None:
    backup = Backup(safe)
    victim = next(iter(safe.survivors))
    forget(safe, backup, victim)
    backup.restore()
    with safe.context.registry.write() as session:
        workers.register(session, name="busy", device="cpu", queues=("deletions",), now=safe.time())
    with pytest.raises(Conflict, match="runs on this registry, or did until a moment ago: busy"):
        apply(safe)
    assert victim in check(safe).returned
    safe.time.advance(safe.context.settings.worker.fresh.total_seconds() + 1)
    apply(safe)
    sound(safe, backup)


def test_a_check_beside_a_service_at_work_finds_nothing_wrong(safe: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is accepted, or written to the ledger, between its two looks."""
    safe.erase(next(iter(safe.survivors)))
    read = ledger.read

    def slow(store: object) -> ledger.Reading:
        reading = read(store)  # type: ignore[arg-type]
        safe.erase(next(iter(safe.survivors)))
        safe.settle()
        return reading

    monkeypatch.setattr(ledger, "read", slow)
    assert check(safe).is_clean
    assert list(audit(safe.context, Scope())) == []


def test_ids_are_all_that_is_said(safe: World) -> None:
    backup = Backup(safe)
    victim = safe.survivors[next(iter(safe.survivors))]
    forget(safe, backup, victim.id)
    backup.restore()
    said = json.dumps(list(check(safe).lines()))
    assert victim.id in said
    assert not any(word in said for word in (victim.owner, victim.digest, f" {victim.label} "))

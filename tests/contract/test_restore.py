"""A backup is restored: what was erased since it was taken is found, and forgotten once more."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.core import erasure, ledger, restore
from service.core.audit import Scope, audit
from service.core.opening import open_ledger
from service.core.restore import Check
from service.core.tidy import tidy
from service.errors import Conflict, Unavailable
from service.registry import samples, state, workers
from service.registry.records import Erasure, Tombstone
from service.registry.tables import ClusterRow, SampleRow
from service.serving.snapshot import take_snapshot
from service.settings import S3Settings
from tests.backups import Backup
from tests.layouts import KINDS
from tests.world import DAY, Killed, MakeWorld, World


@pytest.fixture
def safe(make_world: MakeWorld, tmp_path: Path) -> World:
    """Thirty samples, everything trained, and a ledger that no restore of the data folder turns back."""
    return settle(make_world(ledger_url=str(tmp_path / "ledger")))


def settle(world: World, count: int = 30) -> World:
    world.add(count)
    world.settle()
    return world


def forget(world: World, backup: Backup, *ids: str) -> Erasure:
    """Erase, see it through, and expect the backup to be without them in the end."""
    accepted = world.erase(*ids)
    world.settle()
    for sample_id in ids:
        backup.survivors.pop(sample_id, None)
        backup.held_out.pop(sample_id, None)
    return accepted


def check(world: World) -> Check:
    return restore.check(world.context)


def apply(world: World) -> None:
    restore.apply(world.context, check(world))


def sound(world: World, expected: Backup) -> None:
    """Once workers ran: the survivors' service, and nothing else."""
    assert check(world).is_clean
    world.survivors, world.held_out = dict(expected.survivors), dict(expected.held_out)
    world.settle()
    world.check()
    assert list(audit(world.context, Scope(rebuild_all=True))) == []


def ledger_file(world: World, erasure_id: str) -> Path:
    (path,) = Path(world.context.settings.ledger_url or "").rglob(f"{erasure_id}.json")
    return path


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


# ------------------------------------------------------------------------------------------- a ledger in disorder


def test_a_tombstone_that_was_lost_is_missed_and_written_again(safe: World) -> None:
    backup = Backup(safe)
    accepted = forget(safe, backup, next(iter(safe.survivors)))
    path = ledger_file(safe, accepted.id)
    written = path.read_bytes()
    path.unlink()
    assert check(safe).unwritten == [accepted.id]
    apply(safe)
    assert path.read_bytes() == written
    sound(safe, backup)


GARBAGE = {"empty": b"", "cut off": b'{"erasure": "0193', "other": b"[1, 2]", "binary": b"\xff\xfe\x00"}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_an_entry_that_cannot_be_read_is_named_and_mended_where_the_registry_knows_better(
    safe: World, garbage: bytes
) -> None:
    backup = Backup(safe)
    accepted = forget(safe, backup, next(iter(safe.survivors)))
    path = ledger_file(safe, accepted.id)
    written = path.read_bytes()
    path.write_bytes(garbage)
    found = check(safe)
    assert list(found.illegible) == [ledger.object_name(accepted.id)]
    apply(safe)
    assert path.read_bytes() == written
    path.write_bytes(garbage)
    backup.restore()  # now no registry knows its owner
    apply(safe)
    assert list(check(safe).illegible) == [ledger.object_name(accepted.id)]
    assert path.read_bytes() == garbage


def test_the_others_do_not_wait_for_an_entry_that_cannot_be_read(safe: World) -> None:
    backup = Backup(safe)
    first, second = (forget(safe, backup, sample_id) for sample_id in list(safe.survivors)[:2])
    whole = ledger_file(safe, first.id).read_bytes()
    backup.restore()
    ledger_file(safe, first.id).write_bytes(whole[:40])
    apply(safe)
    found = check(safe)
    assert safe.erasure(second.id).samples == 1
    assert not found.is_clean
    assert [line.split()[2] for line in found.lines()] == [ledger.object_name(first.id)]
    ledger_file(safe, first.id).write_bytes(whole)  # found in another copy
    apply(safe)
    sound(safe, backup)


def copy_of(path: Path, how: str) -> Path:
    """Where a careless hand has put a second copy of an entry."""
    return {"beside": path.with_name("copy.json"), "elsewhere": path.parents[1] / "old" / path.name}[how]


@pytest.mark.parametrize("how", ["beside", "elsewhere"])
def test_a_copy_under_another_name_is_named_and_does_no_harm(safe: World, how: str) -> None:
    backup = Backup(safe)
    accepted = forget(safe, backup, next(iter(safe.survivors)))
    path = ledger_file(safe, accepted.id)
    orphan = copy_of(path, how)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(path.read_bytes())
    backup.restore()
    apply(safe)
    assert len(check(safe).illegible) == 1
    orphan.unlink()
    sound(safe, backup)


def test_a_sample_that_two_tombstones_name_is_erased_once(safe: World) -> None:
    backup = Backup(safe)
    victim = next(iter(safe.survivors))
    accepted = forget(safe, backup, victim)
    twin = Tombstone("01930000-0000-7000-8000-000000000000", accepted.accepted_at, (victim,))
    safe.context.ledger.put(ledger.object_name(twin.erasure), ledger.encode(twin))
    backup.restore()
    apply(safe)
    sound(safe, backup)
    assert {found.id for found in safe.erasures()} == {accepted.id, twin.erasure}


def test_another_ledger_is_replayed_beside_ours_and_joined_to_it(safe: World, tmp_path: Path) -> None:
    backup = Backup(safe)
    accepted = forget(safe, backup, next(iter(safe.survivors)))
    backup.restore()
    (tmp_path / "ledger").rename(tmp_path / "old")
    safe.restart()
    assert check(safe).is_clean  # ours is empty: it cannot tell
    other = open_ledger(str(tmp_path / "old"), s3=S3Settings(), make=False)
    restore.apply(safe.context, restore.check(safe.context, other))
    assert ledger_file(safe, accepted.id).is_file()
    sound(safe, backup)


def test_a_ledger_that_cannot_be_listed_is_no_clean_bill(safe: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(prefix: str) -> Sequence[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(safe.context.ledger, "names", away)
    with pytest.raises(Unavailable, match="ledger cannot be read: Input/output error"):
        check(safe)
    assert [finding.subject for finding in audit(safe.context, Scope())] == ["ledger"]


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

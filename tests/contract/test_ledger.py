"""Every erasure has its tombstone in the ledger before it is completed; a ledger that is away holds up only that."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from service.api.schemas.erasures import erasure_of
from service.core import ledger
from service.core.audit import Scope, audit
from service.core.opening import open_ledger
from service.core.tidy import tidy
from service.errors import Misconfigured, Unavailable
from service.registry import ledger as rows
from service.registry.records import Tombstone
from service.registry.tables import ErasureRow, ErasureSampleRow
from service.settings import S3Settings
from tests.disks import Disk, small_disk
from tests.rows import NOW
from tests.servers import S3Server
from tests.stores import PLAIN, Place
from tests.world import DAY, Killed, MakeWorld, World, sqlite_only

OWNER = "ada.lovelace@example.org"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """What the ledger alone is on."""
    with small_disk(tmp_path / "ledger") as disk:
        yield disk


@pytest.fixture
def apart(make_world: MakeWorld, tmp_path: Path) -> World:
    """Eight samples in one cluster, trained, and a ledger in a folder of its own."""
    world = make_world(ledger_url=str(tmp_path / "ledger"))
    world.add(8, owner=OWNER)
    world.settle()
    return world


def entries(world: World) -> dict[str, bytes]:
    return {name: world.context.ledger.get(name) for name in world.context.ledger.names("ledger")}


def differences(world: World) -> set[tuple[str, str]]:
    return {(finding.subject, finding.reason) for finding in audit(world.context, Scope())}


# ------------------------------------------------------------------------------------------------------ what it holds


def test_a_tombstone_holds_ids_and_a_time(apart: World, tmp_path: Path) -> None:
    given = sorted(apart.survivors)
    accepted = apart.erase_owner(OWNER)
    apart.settle()
    ((name, data),) = entries(apart).items()
    assert name == f"ledger/{accepted.id}.json"
    assert json.loads(data) == {
        "erasure": accepted.id,
        "accepted_at": accepted.accepted_at.isoformat(),
        "samples": given,
    }
    assert list(ledger.read(apart.context.ledger).tombstones.values()) == [
        Tombstone(accepted.id, accepted.accepted_at, tuple(given))
    ]
    assert [path.name for path in (tmp_path / "ledger").rglob("*") if path.is_file()] == [f"{accepted.id}.json"]


def test_by_default_it_lies_beside_the_objects(world: World) -> None:
    world.add(8)
    accepted = world.erase(next(iter(world.survivors)))
    world.settle()
    assert [path.name for path in (world.folder / "ledger").rglob("*.json")] == [f"{accepted.id}.json"]
    assert list((world.folder / "objects").rglob("*.json")) == []


def test_in_a_store_of_its_own_it_lies_among_the_objects(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(store_url=str(tmp_path / "store"))
    world.add(8)
    accepted = world.erase(next(iter(world.survivors)))
    world.settle()
    assert [path.name for path in (tmp_path / "store").rglob("*.json")] == [f"{accepted.id}.json"]
    world.time.advance(DAY)
    tidy(world.context)
    assert list(entries(world)) == [ledger.object_name(accepted.id)]  # no orphan, whatever its age
    world.check()
    assert differences(world) == set()


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no object": lambda entry: [entry],
    "no samples": lambda entry: {**entry, "samples": []},
    "samples no list": lambda entry: {**entry, "samples": 3},
    "sample no id": lambda entry: {**entry, "samples": ["x"]},
    "sample no text": lambda entry: {**entry, "samples": [None]},
    "id in capitals": lambda entry: {**entry, "samples": [entry["samples"][0].upper()]},
    "no erasure": lambda entry: {key: value for key, value in entry.items() if key != "erasure"},
    "another erasure": lambda entry: {**entry, "erasure": entry["samples"][0]},
    "no time": lambda entry: {**entry, "accepted_at": "yesterday"},
    "no zone": lambda entry: {**entry, "accepted_at": "2026-01-01T00:00:00"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_no_tombstone_is_never_taken_for_one(change: Callable[[dict[str, Any]], object]) -> None:
    entry = {
        "erasure": "01930000-0000-7000-8000-00000000000e",
        "accepted_at": "2026-01-01T00:00:00+00:00",
        "samples": ["01930000-0000-7000-8000-00000000000a"],
    }
    name = ledger.object_name(entry["erasure"])  # type: ignore[arg-type]
    assert ledger.decode(name, json.dumps(entry).encode()).samples == tuple(entry["samples"])
    with pytest.raises(ledger.Illegible):
        ledger.decode(name, json.dumps(change(entry)).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"null", b'{"erasure": "0193'])
def test_nor_is_half_of_one(data: bytes) -> None:
    with pytest.raises(ledger.Illegible):
        ledger.decode("ledger/01930000-0000-7000-8000-00000000000e.json", data)


# ------------------------------------------------------------------------------------------- before it is completed


def test_no_erasure_is_completed_before_its_tombstone_is_written(
    apart: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(name: str, data: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(apart.context.ledger, "put", away)
    victim = next(iter(apart.survivors))
    accepted = apart.erase(victim)
    seen = set()
    for _ in range(apart.context.settings.training.attempts + 2):
        apart.reconcile()
        while apart.train():
            pass
        seen.add(apart.erasure(accepted.id).state)
    assert "ledger" in (erasure_of(apart.erasure(accepted.id)).failure or "")
    assert seen == {"withdrawn", "failed"}  # its tombstone is missing, and in the end shown as such
    assert "tombstones cannot be written to the erasure ledger: Input/output error" in caplog.text
    assert victim not in caplog.text
    # Everything else has gone on: its bytes are gone, its successor serves, others come.
    assert f"samples/{victim}.safetensors" not in apart.objects()
    apart.add(3)
    for _ in range(3):
        apart.reconcile()
        apart.train()
    (cluster,) = apart.clusters()
    assert (cluster.samples, cluster.differs) == (10, False)
    monkeypatch.undo()
    apart.reconcile()
    assert apart.erasure(accepted.id).state == "completed"
    assert list(entries(apart)) == [ledger.object_name(accepted.id)]
    apart.settle()
    apart.check()
    assert differences(apart) == set()


def test_a_ledger_that_is_full_is_written_once_there_is_room(disk: Disk, make_world: MakeWorld) -> None:
    world = make_world(ledger_url=str(disk.folder))
    world.add(8)
    world.settle()
    with disk.full():
        accepted = world.erase(next(iter(world.survivors)))
        for _ in range(2):
            world.reconcile()
            world.train()
        assert world.erasure(accepted.id).state == "withdrawn"
        assert entries(world) == {}
        assert list(disk.folder.rglob(".tmp-*")) == []
    world.settle()
    assert world.erasure(accepted.id).state == "completed"
    world.check()


def test_a_ledger_whose_folder_has_gone_is_made_again(apart: World, tmp_path: Path) -> None:
    (tmp_path / "ledger").rmdir()
    (tmp_path / "ledger").write_bytes(b"a file in its place")
    accepted = apart.erase(next(iter(apart.survivors)))
    apart.reconcile()
    apart.train()
    apart.reconcile()
    assert apart.erasure(accepted.id).state == "withdrawn"
    (tmp_path / "ledger").unlink()
    apart.settle()
    assert list(entries(apart)) == [ledger.object_name(accepted.id)]


def test_one_that_is_killed_between_writing_and_noting_writes_twice_and_that_is_all(
    apart: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise Killed

    accepted = apart.erase(next(iter(apart.survivors)))
    monkeypatch.setattr(rows, "noted", die)
    with pytest.raises(Killed):
        apart.reconcile()
    monkeypatch.undo()
    written = entries(apart)
    assert list(written) == [ledger.object_name(accepted.id)]
    assert not apart.erasure(accepted.id).ledgered
    apart.settle()
    assert entries(apart) == written
    apart.check()


def test_what_a_killed_writer_left_unfinished_is_no_tombstone_and_is_tidied_away(apart: World, tmp_path: Path) -> None:
    accepted = apart.erase(next(iter(apart.survivors)))
    apart.settle()
    (folder,) = {path.parent for path in (tmp_path / "ledger").rglob("*.json")}
    left = folder / ".tmp-0123"
    left.write_bytes(b'{"erasure": "01')
    assert list(ledger.read(apart.context.ledger).tombstones) == [accepted.id]
    assert ledger.read(apart.context.ledger).illegible == {}
    old = left.stat().st_mtime - timedelta(hours=1).total_seconds()
    os.utime(left, (old, old))
    tidy(apart.context)
    assert not left.exists()


def test_a_folder_of_the_ledger_that_may_not_be_listed_is_not_taken_for_empty(
    apart: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = apart.erase(next(iter(apart.survivors)))
    apart.settle()
    scandir = os.scandir

    def forbidden(path: str) -> Any:
        if str(path).endswith(f"/{accepted.id[-2:]}"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(Unavailable, match="ledger cannot be read: Permission denied"):
        ledger.read(apart.context.ledger)


# ---------------------------------------------------------------------------------------------------------- many


def owe(world: World, count: int) -> list[str]:
    """Completed erasures of an earlier release, which kept no ledger."""
    ids = [str(uuid7()) for _ in range(count)]
    now = world.time()
    times = {"accepted_at": now, "withdrawn_at": now, "completed_at": now, "due_at": now}
    with world.context.registry.write() as session:
        row = {"state": "completed", "ledgered": False, "ledger_attempts": 0, **times}
        session.execute(sa.insert(ErasureRow), [{"id": erasure_id, **row} for erasure_id in ids])
        gone = [{"erasure_id": erasure_id, "sample_id": str(uuid7())} for erasure_id in ids]
        session.execute(sa.insert(ErasureSampleRow), gone)
    return ids


def test_thousands_are_written_some_at_a_time(world: World) -> None:
    ids = owe(world, 2500)
    assert {reason for _, reason in differences(world)} == {"is completed, and its tombstone is not written yet"}
    assert [ledger.write_missing(world.context) for _ in range(4)] == [1000, 1000, 500, 0]
    assert set(ledger.read(world.context.ledger).tombstones) == set(ids)
    assert differences(world) == set()


def test_a_ledger_that_is_away_is_not_asked_a_thousand_times(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def away(name: str, data: bytes) -> None:
        asked.append(name)
        raise ConnectionError("no answer")

    monkeypatch.setattr(world.context.ledger, "put", away)
    owe(world, 100)
    for _ in range(3):
        assert ledger.write_missing(world.context) == 0
    assert len(set(asked)) == len(asked) == 3 * ledger.AT_ONCE  # others' turn each time


def test_one_that_cannot_be_written_holds_up_no_other(apart: World, tmp_path: Path) -> None:
    ids = owe(apart, 20)
    blocked = tmp_path / "ledger" / "ledger" / ids[0][-2:] / f"{ids[0]}.json"
    (blocked / "in the way").mkdir(parents=True)
    for _ in range(2):
        ledger.write_missing(apart.context)
    assert set(ledger.read(apart.context.ledger).tombstones) == set(ids[1:])
    (blocked / "in the way").rmdir()
    blocked.rmdir()
    assert ledger.write_missing(apart.context) == 1


@sqlite_only
def test_looking_for_what_is_missing_does_not_read_every_erasure(world: World) -> None:
    statement = "EXPLAIN QUERY PLAN SELECT id FROM erasures WHERE ledgered = 0 ORDER BY ledger_attempts, id LIMIT 9"
    with world.context.registry.engine.connect() as connection:
        ((*_, plan),) = connection.execute(sa.text(statement)).all()
    assert "ix_erasures_unledgered" in plan


# ---------------------------------------------------------------------------------------------------------- audit


def test_an_audit_names_what_ledger_and_registry_disagree_on(apart: World) -> None:
    first, second, third = (apart.erase(sample_id).id for sample_id in list(apart.survivors)[:3])
    apart.settle()
    assert differences(apart) == set()
    store = apart.context.ledger
    store.delete(ledger.object_name(first))
    other = ledger.decode(ledger.object_name(second), store.get(ledger.object_name(second)))
    stranger = str(uuid7())
    store.put(ledger.object_name(second), ledger.encode(Tombstone(second, other.accepted_at, (stranger,))))
    store.put(ledger.object_name(third), b"{")
    store.put(ledger.object_name(stranger), ledger.encode(Tombstone(stranger, other.accepted_at, other.samples)))
    assert differences(apart) == {
        (f"erasure {first}", "has no tombstone in the ledger"),
        (f"erasure {second}", "has other samples in the ledger than in the registry"),
        (f"erasure {third}", "has no tombstone in the ledger"),
        (f"ledger object {ledger.object_name(third)}", "is not a tombstone: damaged, or of another program"),
        (f"erasure {stranger}", "is in the ledger, and not in the registry: see `oubli restore-check`"),
    }


def test_a_sample_that_an_unknown_erasure_took_out_is_named(apart: World) -> None:
    victim, unknown = next(iter(apart.survivors)), str(uuid7())
    tombstone = Tombstone(unknown, apart.time(), (victim,))
    apart.context.ledger.put(ledger.object_name(unknown), ledger.encode(tombstone))
    assert (f"sample {victim}", "was erased by the ledger, and is in the registry again") in differences(apart)


# -------------------------------------------------------------------------------------------------------- settings


def test_a_ledger_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match=r"ledger's folder .*file cannot be used"):
        open_ledger(str(tmp_path / "file"), s3=S3Settings())
    with pytest.raises(Misconfigured, match="OUBLI_LEDGER_URL: ftp://x is neither a folder nor s3://"):
        open_ledger("ftp://x", s3=S3Settings())
    with pytest.raises(Misconfigured, match="There is no ledger in"):
        open_ledger(str(tmp_path / "mistyped"), s3=S3Settings(), make=False)
    assert not (tmp_path / "mistyped").exists()


def test_a_ledger_may_lie_in_a_bucket_and_an_empty_one_is_not_taken_for_one(s3_server: S3Server) -> None:
    place = Place(s3_server, PLAIN)
    with pytest.raises(Misconfigured, match="There is no ledger in s3://"):
        open_ledger(place.url, s3=place.settings(), make=False)
    written = Tombstone(str(uuid7()), NOW, (str(uuid7()),))
    apart = open_ledger(place.url, s3=place.settings())
    apart.put(ledger.object_name(written.erasure), ledger.encode(written))
    assert ledger.read(open_ledger(place.url, s3=place.settings(), make=False)).tombstones == {written.erasure: written}

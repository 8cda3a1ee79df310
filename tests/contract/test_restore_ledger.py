"""A backup is restored beside a ledger in disorder: entries lost, damaged, doubled, or of another ledger."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from service.core import ledger, restore
from service.core.audit import Scope, audit
from service.core.opening import open_ledger
from service.errors import Unavailable
from service.registry.records import Tombstone
from service.settings import S3Settings
from tests.backups import Backup, apply, check, forget, ledger_file, settle, sound
from tests.world import MakeWorld, World


@pytest.fixture
def safe(make_world: MakeWorld, tmp_path: Path) -> World:
    """Thirty samples, everything trained, and a ledger that no restore of the data folder turns back."""
    return settle(make_world(ledger_url=str(tmp_path / "ledger")))


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

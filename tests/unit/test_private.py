"""What lies in the data folder is its owner's alone: made like that whatever the umask, and mended where it is not."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import private
from service.artifacts import FolderStore
from service.core.privacy import keep_private
from service.errors import Misconfigured
from service.messaging.notifier import Notifier
from service.registry.engine import Registry, migrate
from service.settings import Settings


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """A umask that keeps nothing from anybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, str]:
    """Of everything within, and of the folder itself."""
    found = {path.relative_to(root).as_posix(): path.lstat() for path in [root, *root.rglob("*")]}
    return {name: oct(stat.S_IMODE(state.st_mode)) for name, state in found.items() if not stat.S_ISLNK(state.st_mode)}


def assert_private(root: Path) -> None:
    for name, mode in modes(root).items():
        assert mode == ("0o700" if (root / name).is_dir() else "0o600"), f"{name}: {mode}"


# ------------------------------------------------------------------------------------------------------ as it is made


def test_a_store_makes_folders_and_objects_for_its_owner(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data" / "objects")
    store.put_many([("samples/abc.png", b"x"), ("prompts/xyz.safetensors", b"y")])
    store.sweep(timedelta())
    assert store.get("samples/abc.png") == b"x"
    assert_private(tmp_path / "data")


def test_sqlite_s_file_and_its_log_are_made_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "data" / "registry.db"
    migrate(path)
    with closing(Registry(path)) as registry, registry.write() as session:
        session.execute(sa.text("CREATE TABLE t (x)"))
        assert set(modes(path.parent)) >= {"registry.db", "registry.db-wal", "registry.db-shm"}
        assert_private(path.parent)


def test_making_the_file_private_drops_no_lock_of_a_connection_that_is_open(tmp_path: Path) -> None:
    """By POSIX, a process that opens and closes a file loses all locks that it holds on it."""
    migrate(path := tmp_path / "data" / "registry.db")
    with closing(Registry(path)) as registry, registry.write() as session:
        session.execute(sa.text("CREATE TABLE t (x)"))
        with registry.read() as other:
            other.execute(sa.text("SELECT 1"))
        with closing(sqlite3.connect(path, timeout=0)) as stranger, pytest.raises(sqlite3.OperationalError):
            stranger.execute("BEGIN IMMEDIATE")


def test_messages_of_the_embedded_broker_and_what_libraries_make_are_their_owner_s(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    keep_private(settings)
    assert Notifier(settings).notify_now(urgent=True)
    (tmp_path / "data" / "queue" / "control" / "an exchange of kombu's").write_text("x")
    assert [name for name in modes(tmp_path / "data") if name.endswith(".msg")]
    assert_private(tmp_path / "data")


# ----------------------------------------------------------------------------------------------------- as it is found


def left_open(root: Path) -> list[Path]:
    """A data folder as an earlier release, and a copy, have left it."""
    files = [root / name for name in ("registry.db", "registry.db-wal", "admin-key", "objects/samples/ab/x.png")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return files


def test_what_is_open_is_closed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = left_open(tmp_path / "data")
    files[0].chmod(0o755)
    ledger = tmp_path / "ledger"
    (ledger / "ledger").mkdir(parents=True)
    settings = Settings(data_dir=tmp_path / "data", ledger_url=str(ledger))
    with caplog.at_level(logging.WARNING, "service"):
        thread = keep_private(settings)
        assert modes(tmp_path / "data")["admin-key"] == "0o600"  # at once, and the folder above it
        assert thread is not None
        thread.join()
    files[0].chmod(0o600)  # its owner may go on running it
    assert_private(tmp_path / "data")
    assert_private(ledger)
    told = [record.getMessage() for record in caplog.records]
    assert any(f"{tmp_path / 'data'} was open to other users" in line for line in told)
    assert any(str(ledger) in line for line in told)


def test_what_is_closed_is_not_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_open(tmp_path / "data")
    settings = Settings(data_dir=tmp_path / "data")
    for _ in range(2):
        caplog.clear()
        if thread := keep_private(settings, thorough=True):
            thread.join()
    assert caplog.records == []
    assert keep_private(settings) is None  # nothing open at the top, so no other user can have got in


def test_objects_on_another_disk_are_closed_there_and_nothing_else_that_a_link_names(tmp_path: Path) -> None:
    other = tmp_path / "other disk"
    (other / "samples").mkdir(parents=True)
    stranger = tmp_path / "stranger"
    stranger.write_text("x")
    data = tmp_path / "data"
    data.mkdir()
    (data / "objects").symlink_to(other)
    (data / "link").symlink_to(stranger)
    thread = keep_private(Settings(data_dir=data))
    assert thread is not None
    thread.join()
    assert_private(other)
    assert stat.S_IMODE(stranger.stat().st_mode) == 0o666


def test_a_folder_for_everyone_is_not_taken_from_them(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for folder in (shared, Path("/")):
        with pytest.raises(Misconfigured, match="others use too"):
            keep_private(Settings(data_dir=folder))
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_what_is_not_ours_to_close_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left_open(tmp_path / "data")

    def chmod(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(private.Path, "chmod", chmod)
    keep_private(Settings(data_dir=tmp_path / "data"))
    assert "cannot close" in caplog.text
    assert "Operation not permitted" in caplog.text

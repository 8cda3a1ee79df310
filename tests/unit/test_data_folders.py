"""How commands fail on a data folder that cannot be used: in one line, with an exit status of their own."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.cli import ingest
from tests.commands import HIDDEN, assert_one_line, command

pytestmark = pytest.mark.usefixtures("command_environment")


ON_FOLDERS = [["audit"], ["restore-check"], ["keys", "list"], ["api"], ["heartbeat"]]
MAKING = [["serve", "--port", "PORT"], ["migrate"]]


@pytest.fixture(params=[*ON_FOLDERS, *MAKING], ids=" ".join)
def on_folder(request: pytest.FixtureRequest) -> list[str]:
    words: list[str] = request.param
    return with_port(words)


def with_port(words: list[str]) -> list[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return [word.replace("PORT", str(probe.getsockname()[1])) for word in words]


def damage_by_noise(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def damage_within(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.commit()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 1000)


@pytest.mark.parametrize("damage", [damage_by_noise, damage_within])
def test_a_damaged_registry_is_said_in_a_line(
    damage: Callable[[Path], None], on_folder: list[str], tmp_path: Path
) -> None:
    damage(tmp_path / "registry.db")
    assert_one_line(command(*on_folder, "--data", tmp_path), "damaged", "backup", code=2)


def test_a_data_folder_that_is_a_file_is_said(on_folder: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"file {HIDDEN}"
    path.write_text("mine")
    assert_one_line(command(*on_folder, "--data", path), r"file \x1b[2J\x07\u202e is a file", code=2)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("words", MAKING, ids=" ".join)
def test_a_data_folder_that_cannot_be_made_is_said(words: list[str]) -> None:
    done = command(*with_port(words), "--data", "/proc/x")
    assert_one_line(done, "folder /proc/x cannot be used: No such file", code=2)


@pytest.mark.parametrize("words", ON_FOLDERS, ids=" ".join)
def test_a_data_folder_that_is_not_there_is_said_and_not_made(words: list[str], tmp_path: Path) -> None:
    assert_one_line(command(*words, "--data", "/proc/x"), "no folder /proc/x", "--data", code=1)
    assert_one_line(command(*words, "--data", tmp_path), "no registry in", "oubli migrate", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_registry_of_another_program_is_said(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "registry.db")) as database:
        database.execute("CREATE TABLE pictures (id)")
    assert_one_line(command("heartbeat", "--data", tmp_path), "no registry of this release", code=2)
    assert_one_line(command("audit", "--data", tmp_path), "no registry of this release", code=2)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(Path, "mkdir", full)
    assert_one_line(command("migrate", "--data", tmp_path / "new"), "cannot be used: No space left on device", code=2)


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ingest, "find", mistaken)
    with pytest.raises(ZeroDivisionError):
        command("ingest", tmp_path, "--owner", "ada")

"""A service's data folder is its owner's alone, whatever the umask and whatever was there; its key is in no log."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.cli.supervisor import tell_admin_key
from service.core.access import AdminKey
from tests.integration.harness import TINY, Picture, Service, free_port, launch, oubli, until

ODD_NAME = "da ta?x=1#%20é"


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is started with no umask at all, in a folder that is there, open, with an odd name."""
    folder = tmp_path_factory.mktemp("careless")
    service = Service(folder, env={**TINY, "OUBLI_LEDGER_URL": str(folder / "led ger?x")}, name=ODD_NAME, umask=0)
    (service.data / "objects" / "samples").mkdir(parents=True)
    (service.data / "objects" / "samples" / "left by a copy").write_text("x")
    for path in (service.data, *service.data.rglob("*")):
        path.chmod(0o777)
    with service:
        yield service.start()


def open_to_others(root: Path) -> list[str]:
    found = {path: path.lstat() for path in [root, *root.rglob("*")] if path.exists()}
    return [f"{path} {stat.filemode(state.st_mode)}" for path, state in found.items() if state.st_mode & 0o077]


def test_everything_is_its_owner_s_alone_in_use_and_at_rest(careless: Service, pictures: list[Picture]) -> None:
    careless.contribute(pictures[:8], "ada")
    careless.settle()
    erasure = careless.client.delete("/owners/ada").json()
    careless.complete(erasure["id"])
    ledger = Path(careless.env["OUBLI_LEDGER_URL"])
    made = {path.name for path in careless.data.iterdir()}
    assert {"registry.db", "registry.db-wal", "registry.db-shm", "objects", "queue", "admin-key", "serve.lock"} <= made
    assert len(list(ledger.rglob("*.json"))) == 1
    assert open_to_others(careless.data) + open_to_others(ledger) == []
    for line in ("was open to other users", "are closed to them from now on"):
        assert line in careless.log


def test_what_belongs_in_the_folder_is_nowhere_else(careless: Service) -> None:
    assert {path.name for path in careless.folder.iterdir()} == {ODD_NAME, "led ger?x", "log"}
    with closing(sqlite3.connect(careless.data / "registry.db")) as registry:
        assert registry.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)


def test_the_admin_key_is_in_no_log_which_says_where_it_is(careless: Service) -> None:
    assert careless.key.startswith("oubli_")
    assert careless.key not in careless.log
    assert f"made an admin key: it is kept in {careless.data / 'admin-key'}" in careless.log


@pytest.mark.thorough
def test_a_revoked_admin_key_is_not_replaced_while_another_one_is_valid(careless: Service) -> None:
    def keys(*arguments: str) -> str:
        done = oubli("keys", *arguments, "--data", careless.data)
        assert done.code == 0, done.err
        return done.out

    before = careless.key
    own = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", keys("list"))
    assert own is not None
    keys("create", "--scopes", "admin")
    keys("revoke", own[0][:8])
    careless.stop(signal.SIGTERM)
    careless.start()
    assert careless.key == before
    assert "no other is made" in careless.log
    assert keys("list").count("admin (made at first start)") == 1


class Stream:
    """Standard output or error, which may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.said = ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, words: str) -> None:
        self.said += words

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(("out", "err"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_key_is_said_once_to_a_terminal_and_to_nothing_else(
    out: bool, err: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = {"stdout": Stream(out), "stderr": Stream(err)}
    for name, stream in streams.items():
        monkeypatch.setattr(f"sys.{name}", stream)
    with caplog.at_level("INFO", "service"):
        tell_admin_key(AdminKey(secret="oubli_secret"), Path("data/admin-key"))
        tell_admin_key(AdminKey(), Path("data/admin-key"))
    monkeypatch.undo()
    said = {name: stream.said.count("oubli_secret") for name, stream in streams.items()}
    assert said == {"stdout": int(out), "stderr": int(err and not out)}
    assert "oubli_secret" not in caplog.text
    assert "data/admin-key" in caplog.text


@pytest.mark.thorough
@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_role_by_itself_closes_an_open_folder_and_says_so(tmp_path: Path, role: str) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    env = {**TINY, "OUBLI_DATA_DIR": str(data)}
    assert oubli("migrate", env=env).code == 0
    (data / "objects").mkdir(exist_ok=True)
    (data / "objects" / "left by a copy").write_text("x")
    for path in (data, *data.rglob("*")):
        path.chmod(0o777)
    process = launch(role, *(("--port", str(free_port())) if role == "api" else ()), env=env, log=log, umask=0)
    try:
        until(lambda: "are closed to them from now on" in log.read_text(), what="the line in the log")
        until(lambda: open_to_others(data) == [], what="a closed folder")
        assert "was open to other users" in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -------------------------------------------------------------------------------------------------------- without keys


@pytest.mark.parametrize(("role", "host"), [("serve", "0.0.0.0"), ("serve", ""), ("api", "::"), ("api", "0.0.0.0")])
def test_without_keys_it_listens_on_this_machine_alone(tmp_path: Path, role: str, host: str) -> None:
    env = {**TINY, "OUBLI_AUTH": "false", "OUBLI_DATA_DIR": str(tmp_path / "data")}
    done = oubli(role, "--host", host, "--port", str(free_port()), env=env)
    assert done.code == 2, done
    assert "OUBLI_AUTH=false" in done.err
    assert "Traceback" not in done.err
    assert "serving at" not in done.err


@pytest.mark.thorough
def test_without_keys_it_says_so_at_every_start(tmp_path: Path) -> None:
    env = {**TINY, "OUBLI_AUTH": "false", "OUBLI_DATA_DIR": str(tmp_path / "data"), "OUBLI_LOG_LEVEL": "WARNING"}
    assert oubli("migrate", env=env).code == 0
    for start in range(2):
        log = tmp_path / f"log-{start}"
        api = launch("api", "--host", "localhost", "--port", str(free_port()), env=env, log=log)
        try:
            until(lambda log=log: "OUBLI_AUTH=false" in log.read_text(), what="the warning")  # type: ignore[misc]
        finally:
            os.killpg(api.pid, signal.SIGKILL)
            api.wait()

"""An API that is told to stop: it says so first, answers what comes and what has come, and is gone with status 0."""

from __future__ import annotations

import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.api.app import create_app
from service.api.server import Server
from service.settings import Settings
from tests.integration.harness import TINY, Picture, oubli, until, upload
from tests.integration.rolling import TrainingExample

pytestmark = pytest.mark.thorough

BOUNDARY = "oubli-boundary"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TrainingExample]:
    """One API on SQLite, without keys and without workers; tests start it with settings of their own."""
    env = {**TINY, "OUBLI_DATA_DIR": str(tmp_path / "data"), "OUBLI_AUTH": "false"}
    assert oubli("migrate", env=env).code == 0
    with TrainingExample("api", tmp_path, env) as member:
        yield member


def begin(api: TrainingExample, drain: str = "0", finish: str = "30") -> TrainingExample:
    api.env |= {"OUBLI_SERVING__DRAIN_SECONDS": drain, "OUBLI_SERVING__FINISH_SECONDS": finish}
    return api.start().serving()


def replicas(api: TrainingExample) -> int:
    with closing(sqlite3.connect(f"{api.env['OUBLI_DATA_DIR']}/registry.db", timeout=30)) as registry:
        ((count,),) = registry.execute("SELECT count(*) FROM replicas").fetchall()
    return int(count)


@contextmanager
def slow_sample(api: TrainingExample, picture: Picture) -> Iterator[tuple[socket.socket, bytes]]:
    """A POST /samples whose headers and first bytes are sent: the connection, and the rest of the body."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"label": picture.label, "owner": "ada"}.items()
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{picture.name}"\r\n\r\n'.encode()
    body = b"".join([*parts, file, picture.data, f"\r\n--{BOUNDARY}--\r\n".encode()])
    head = (
        f"POST /samples HTTP/1.1\r\nHost: oubli\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(head + body[:200])
        yield connection, body[200:]


def answer(connection: socket.socket) -> bytes:
    """All that still comes, up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def listens(api: TrainingExample) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", api.port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_so_answers_and_leaves(api: TrainingExample, pictures: list[Picture], number: signal.Signals) -> None:
    begin(api, drain="6")
    with slow_sample(api, pictures[0]) as (connection, rest):
        assert replicas(api) == 1
        told = time.monotonic()
        api.tell(number)
        accepted = contribute_until(told + 4, api, pictures[1:])
        assert accepted >= 1
        until(lambda: not listens(api), seconds=20, what="a closed listener")
        assert time.monotonic() - told >= 6
        assert api.process.poll() is None  # there is a request under way
        connection.sendall(rest)
        assert answer(connection).startswith(b"HTTP/1.1 201")
    assert api.ended() == 0
    assert replicas(api) == 0
    assert "Traceback" not in api.log
    with closing(sqlite3.connect(f"{api.env['OUBLI_DATA_DIR']}/registry.db")) as registry:
        assert registry.execute("SELECT count(*) FROM samples").fetchall() == [(accepted + 1,)]


def contribute_until(deadline: float, api: TrainingExample, pictures: list[Picture]) -> int:
    """Contribute to an API that was told to stop a moment ago; how many times."""
    accepted = 0
    with httpx.Client(base_url=api.url, timeout=60) as client:
        until(lambda: client.get("/health/ready").json()["draining"], seconds=3, what="draining")
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["serving"]) == (503, "draining", False)
        while time.monotonic() < deadline and accepted < len(pictures):
            sample = client.post(
                "/samples", files=upload("image", [pictures[accepted]]), data={"label": "a", "owner": "bela"}
            )
            assert (sample.status_code, sample.headers["connection"]) == (201, "close"), sample.text
            accepted += 1
    return accepted


def test_a_request_that_never_ends_is_cut_off(api: TrainingExample, pictures: list[Picture]) -> None:
    begin(api, finish="1")
    with httpx.Client(base_url=api.url, timeout=60) as client:
        assert client.get("/health/live").headers.get("connection") != "close"
    with slow_sample(api, pictures[0]) as (connection, _):
        assert api.stop() < 20  # without any drain, too
        assert b"201" not in answer(connection)
    assert replicas(api) == 0


def test_a_second_signal_ends_it_at_once(api: TrainingExample) -> None:
    begin(api, drain="100")
    api.tell()
    until(lambda: api.health()["draining"], seconds=5, what="draining")
    api.tell()
    assert api.ended(seconds=5) == -signal.SIGTERM


def test_who_is_not_warm_has_nobody_to_wait_for(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    server = Server(uvicorn.Config(app), app, drain_seconds=100)
    server.handle_exit(signal.SIGTERM, None)
    assert server._stop_at is not None
    assert server._stop_at <= time.monotonic()
    app.state.service = object()
    warm = Server(uvicorn.Config(app), app, drain_seconds=100)
    warm.handle_exit(signal.SIGTERM, None)
    assert warm._stop_at is not None
    assert warm._stop_at > time.monotonic() + 90

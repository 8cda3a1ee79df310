"""The HTTP front in this process, at a real port: our server, protocol and application on the tiny backbone.

No worker: nothing is trained. Requests that a well-behaved client cannot send are spelt out on a socket.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from service.api.app import create_app
from service.api.server import Server, configured
from service.clock import system_clock
from service.core import access
from service.registry.engine import Registry, migrate
from tests.integration.harness import assert_kind, check_error, digit_pictures, free_port, until
from tests.world import settings

PATIENCE = 60.0  # seconds, for what must come
NOBODY = "01890000-0000-7000-8000-000000000000"  # an id that nothing has


@dataclass(frozen=True)
class Said:
    """An answer as it came over a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        assert_kind(found)
        return found


@dataclass(frozen=True)
class Front:
    """A served application."""

    app: FastAPI
    server: Server
    port: int
    key: str  # admin
    registry: Registry

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None) -> httpx.Client:
        return self._client({"Authorization": f"Bearer {key or self.key}"})

    def stranger(self) -> httpx.Client:
        return self._client({})

    def _client(self, headers: dict[str, str]) -> httpx.Client:
        hooks = {"response": [check_error]}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, event_hooks=hooks)

    def make_key(self, *scopes: str) -> str:
        return access.create_key(self.registry, system_clock, scopes=scopes)[1]

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)) as connection:
            yield connection

    def open_connections(self) -> int:
        return len(self.server.server_state.connections)

    def counted(self, method: str, route: str, status: int) -> float:
        return float(self.app.state.metrics.requests.labels(method, route, str(status))._value.get())


def head(method: str, path: str, **headers: str | int) -> bytes:
    """A request's head; `Content_Length=3` is the header `Content-Length: 3`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: oubli"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def heard(connection: socket.socket) -> Said:
    """The next answer, by its announced length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    start, _, body = data.partition(b"\r\n\r\n")
    first, *lines = start.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in pairs}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return Said(int(first.split()[1]), headers, body)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has nothing more to say: waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def drips_until_closed(connection: socket.socket, drop: bytes) -> int:
    """How many drops a connection takes, at twenty a second, before it is closed; 1,000 if it is not."""
    connection.settimeout(0.05)
    for dripped in range(1_000):
        try:
            connection.sendall(drop)
            if connection.recv(65536) == b"":
                return dripped
        except TimeoutError:
            continue
        except OSError:
            return dripped
    return 1_000


def picture(index: int = 0) -> bytes:
    return digit_pictures(index + 1)[index].data


@contextmanager
def served(folder: Path, **groups: Any) -> Iterator[Front]:
    """Until the block ends; `groups` of settings as in `tests.world`."""
    chosen = settings(folder, **groups)
    migrate(chosen.database)
    registry = Registry(chosen.database)
    _, key = access.create_key(registry, system_clock, scopes=["admin"])
    app, port = create_app(chosen), free_port()
    server = Server(configured(app, chosen, host="127.0.0.1", port=port), app, drain_seconds=0)
    app.state.give_up = lambda: setattr(server, "should_exit", True)
    thread = threading.Thread(target=server.run, name="front")
    thread.start()
    try:
        until(lambda: app.state.service is not None or app.state.failure is not None, what="a warm service")
        assert app.state.failure is None, app.state.failure
        yield Front(app, server, port, key, registry)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        registry.close()
        assert not thread.is_alive()

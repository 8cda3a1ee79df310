"""A Redis of a test's own, to be ended, stopped, emptied and filled, and a proxy that can fall silent one way."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mortal import MortalRedis


class RedisServer(MortalRedis):
    """A Redis that a test may end and start again at the same address."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections and never answers."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextmanager
    def full(self) -> Iterator[None]:
        """It has no memory left, and evicts nothing: every write is an error."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            with self.client() as client:
                client.config_set("maxmemory", 0)


@contextmanager
def running(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.close()


class Proxy:
    """Forwards to a Redis. Once `silent`, connections that ask for messages get no answer; others work."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.silent = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # no Redis there: the client learns so, as it would without us
                client.close()
                continue
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        listens = False
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(65536)
                        if not data:
                            client.close()
                            server.close()
                            return
                        listens = listens or (source is client and b"BRPOP" in data)
                        if not (self.silent and listens):
                            target.sendall(data)
                    except OSError:
                        client.close()
                        server.close()
                        return

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()

"""PostgreSQL and Redis that a test may kill, pause and start again: same address, same data.

Promises: what PostgreSQL acknowledged as committed outlives its processes (they die, the machine does not: no fsync is
needed for that, `synchronous_commit` is). Redis keeps nothing, as a cache would: a test that depends on its memory
is found out. After `close` no process is left, and no file of PostgreSQL's.
"""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from sqlalchemy import URL

from tests import servers

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class MortalServer(ABC):
    """A server process at a port of its own; what it says goes to `folder/log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = servers._free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str | Path]:
        """What starts it."""

    def identity(self) -> dict[str, Any]:
        return servers._identity(None, self.folder)

    @abstractmethod
    def answers(self) -> bool:
        """Whether it does, just now."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **self.identity()
            )
        self._wait(self.answers)

    def send(self, number: signal.Signals) -> None:
        """To its first process; `stop` and `kill` know of the others."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        self._end(signal.SIGKILL, with_children=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end."""
        self._end(number, with_children=False)

    def close(self) -> None:
        """End it if it runs; the maker of its folder removes that."""
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.kill()

    def _end(self, number: signal.Signals, *, with_children: bool) -> None:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        children = psutil.Process(process.pid).children(recursive=True)
        for one in [process, *children] if with_children else [process]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        psutil.wait_procs(children, timeout=STOP_SECONDS)  # they hold shared memory, without which none can start

    def _wait(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not check():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not start:\n{(self.folder / 'log').read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)


class MortalPostgres(MortalServer):
    """PostgreSQL; `immediate` is how an operator stops one that hangs, `kill` what the kernel does to it."""

    def __init__(self) -> None:
        self._account = servers._unprivileged()
        self._stack = ExitStack()
        super().__init__(self._stack.enter_context(servers._folder("mortal-postgres", self._account)))
        self._binaries = servers._executable_by(self._account, servers._postgres_binaries(), self.folder)
        servers._as(
            self._account,
            [self._binaries / "initdb", "--pgdata", self.folder / "data", "--username=oubli", "--auth=trust",
             "--encoding=UTF8", "--no-locale", "--no-sync"],
            self.folder,
        )  # fmt: skip
        self._url = URL.create("postgresql+psycopg", "oubli", host="127.0.0.1", port=self.port, database="postgres")

    @property
    def url(self) -> str:
        return self._url.render_as_string(hide_password=False)

    def command(self) -> list[str | Path]:
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder,
            "fsync": "off", "synchronous_commit": "on", "shared_buffers": "64MB", "max_connections": 200,
        }  # fmt: skip
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self._binaries / "postgres", "-D", self.folder / "data", *given]

    def identity(self) -> dict[str, Any]:
        return servers._identity(self._account, self.folder)

    def answers(self) -> bool:
        return servers._postgres_answers(self._url)

    def immediate(self) -> None:
        """Drop everything, without a checkpoint: the next start recovers from the log."""
        self.stop(signal.SIGQUIT)

    def cut_connections(self) -> int:
        """End every other session; how many there were."""
        statement = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        with servers._connect(self._url) as connection:
            row = connection.execute(statement).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        super().close()
        self._stack.close()


class MortalRedis(MortalServer):
    """Redis, all in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str | Path]:
        return [servers._redis_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
                "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", self.folder]  # fmt: skip

    def answers(self) -> bool:
        return servers._redis_answers(self.url)

    def client(self) -> Redis:
        return Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=5)

    def pause(self) -> None:
        """It keeps its port and its connections, and says nothing."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

"""`oubli serve`: API, workers and timer as child processes. A dead one is started again; none outlives its parent."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from service.cli.roles import edge_command, share_cores
from service.clock import system_clock
from service.core.access import ensure_admin_key
from service.errors import Misconfigured
from service.registry.engine import Registry, migrate
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0  # then SIGKILL; the whole stop stays below ten
MISCONFIGURED = 2  # exit status of a child that no restart can help
PR_SET_PDEATHSIG = 1  # prctl(2)
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)


@dataclass
class Child:
    """A supervised process."""

    name: str
    command: list[str]
    nice: int = 0
    waits: bool = False  # it starts once the API listens, and leaves the cores to what is waited for until then
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0
    start_after: float = field(default=0.0)


class Supervisor:
    """Starts the children, keeps them running, stops them."""

    def __init__(self, settings: Settings, *, host: str, port: int) -> None:
        self._settings = settings
        self._host = host
        self._port = port
        self._stopping = False
        address = ["--host", host, "--port", str(port)]
        self._api = Child("api", [sys.executable, "-m", "service.cli", "api", *address])
        # Not by `oubli worker`, which would import much of what the edge imports again.
        self._children = [
            self._api,
            *(
                Child("worker", edge_command("worker", "--name", f"embedded-{number}"), nice=settings.worker.nice)
                for number in range(1, settings.worker.processes + 1)
            ),
            Child("beat", edge_command("beat"), waits=True),
        ]

    def run(self) -> int:
        """Until a signal comes; the exit status."""
        folder = self._settings.data_dir.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "serve.lock", "w") as lock:
            self._take(lock)
            self._check_port()
            self._prepare()
            # Nobody balances between this API and another, and the whole stop has a deadline.
            os.environ |= {
                "OUBLI_DATA_DIR": str(folder),
                "OUBLI_SERVING__DRAIN_SECONDS": "0",
                "OUBLI_SERVING__FINISH_SECONDS": "5",
            }
            share_cores()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            try:
                return self._watch()
            finally:
                self._stop_children()

    def _take(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Misconfigured(f"Another `oubli serve` runs on {self._settings.data_dir}.") from None

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise Misconfigured(f"Cannot listen at {self._host}:{self._port}: {error.strerror}.") from None

    def _prepare(self) -> None:
        migrate(self._settings.database)
        registry = Registry(self._settings.database)
        path = self._settings.data_dir / "admin-key"
        try:
            if self._settings.auth and ensure_admin_key(registry, system_clock, path):
                # Machines keep what they read; a person is told it once.
                secret = path.read_text().strip() if self._settings.log_format == "text" else "read it there"
                log.info("made an admin key, kept in %s: %s", path, secret)
        finally:
            registry.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _watch(self) -> int:
        announced = False
        while not self._stopping:
            if not announced and self._listens():
                announced = True
                log.info("serving at http://%s:%d (API description at /docs)", self._host, self._port)
            for child in self._children:
                if child.process is None:
                    if time.monotonic() >= child.start_after and (announced or not child.waits):
                        self._start(child)
                elif child.process.poll() is not None:
                    if child.process.returncode == MISCONFIGURED:
                        return MISCONFIGURED
                    self._schedule_restart(child)
            time.sleep(0.1)
        return 0

    def _listens(self) -> bool:
        """Whether our API accepts connections; it may still be loading, and then says so."""
        if self._api.process is None or self._api.process.poll() is not None:
            return False
        try:
            with socket.create_connection((_reachable(self._host), self._port), timeout=0.1):
                return True
        except OSError:
            return False

    def _start(self, child: Child) -> None:
        # Of its own session, so that Ctrl-C reaches the supervisor alone and the stop is in order.
        child.process = subprocess.Popen(
            child.command, start_new_session=True, preexec_fn=_in_child(os.getpid(), child.nice)
        )
        child.started_at = time.monotonic()

    def _schedule_restart(self, child: Child) -> None:
        process, child.process = child.process, None
        assert process is not None
        lived = time.monotonic() - child.started_at
        child.restarts = 0 if lived > 60 else child.restarts + 1
        pause = BACKOFF_SECONDS[min(child.restarts, len(BACKOFF_SECONDS) - 1)]
        child.start_after = time.monotonic() + pause
        log.warning("%s ended (status %d) and is started again in %.1f s", child.name, process.returncode, pause)

    def _stop_children(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _reachable(host: str) -> str:
    """An address at which a server is found that listens at `host`: one that listens everywhere, on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _in_child(parent: int, nice: int) -> Callable[[], None]:
    """To be run between fork and exec: die with the parent, even with one that is killed; be as nice as told."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it was killed before the line above
        os.nice(nice)

    return prepare

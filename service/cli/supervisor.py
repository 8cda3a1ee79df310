"""`oubli serve`: API, workers and timer as child processes.

One that has died is started again; so is one that is stopped (SIGSTOP), and an API that no longer answers, after it has
been killed. Told to stop, all of it is gone within five seconds, whatever is being decoded or trained.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO

from service import private
from service.cli.children import Child, stop_all
from service.cli.edge import edge_command, share_cores
from service.cli.pulse import Pulse
from service.clock import system_clock
from service.core.access import AdminKey, ensure_admin_key, require_guarded
from service.core.privacy import keep_private
from service.errors import Misconfigured
from service.registry.engine import Registry, migrate
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 3.0  # then SIGKILL; the whole stop stays below five
FINISH_SECONDS = 2  # of these, for requests under way
STOPPED_SECONDS = 5.0  # a child that is stopped so long is replaced
MISCONFIGURED = 2  # exit status of a child that no restart can help


class Supervisor:
    """Starts the children, keeps them running, stops them."""

    def __init__(self, settings: Settings, *, host: str, port: int) -> None:
        self._settings = settings
        self._host = host
        self._port = port
        self._stopping = False
        address = ["--host", host, "--port", str(port)]
        self._api = Child("api", [sys.executable, "-m", "service.cli", "api", *address])
        self._pulse = Pulse(_reachable(host), port)
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
        require_guarded(self._settings, self._host)
        folder = self._settings.data_dir.absolute()
        with self._lock(folder) as lock:
            self._take(lock)
            self._check_port()
            self._prepare(folder / "admin-key")
            # No proxy balances between this API and another, and the whole stop has a deadline.
            os.environ |= {
                "OUBLI_DATA_DIR": str(folder),
                "OUBLI_SERVING__DRAIN_SECONDS": "0",
                "OUBLI_SERVING__FINISH_SECONDS": str(FINISH_SECONDS),
            }
            share_cores()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            try:
                return self._watch()
            finally:
                self._pulse.stop()
                stop_all(self._children, seconds=STOP_SECONDS)

    def _lock(self, folder: Path) -> IO[str]:
        """In the data folder, which is made, and closed to others, if need be."""
        try:
            private.make_folder(folder)
            keep_private(self._settings, thorough=True)
            return open(folder / "serve.lock", "w", opener=private.opener)
        except OSError as error:
            raise Misconfigured(f"The data folder {folder} cannot be used: {error.strerror}.") from None

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

    def _prepare(self, path: Path) -> None:
        migrate(self._settings.database)
        if not self._settings.auth:
            return
        registry = Registry(self._settings.database)
        try:
            tell_admin_key(ensure_admin_key(registry, system_clock, path), path)
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
                elif child.has_ended:
                    if (status := child.end()) == MISCONFIGURED:
                        return MISCONFIGURED
                    self._start_again(child, f"ended (status {status})")
                elif reason := self._out_of_order(child):
                    child.end()
                    self._start_again(child, f"{reason}, was killed")
            time.sleep(0.1)
        return 0

    def _listens(self) -> bool:
        """Whether our API accepts connections; it may still be loading, and then says so."""
        if self._api.process is None or self._api.has_ended:
            return False
        try:
            with socket.create_connection((_reachable(self._host), self._port), timeout=0.1):
                return True
        except OSError:
            return False

    def _start(self, child: Child) -> None:
        child.start()
        if child is self._api:
            self._pulse.begin()

    def _out_of_order(self, child: Child) -> str:
        """Why a running child must be replaced; empty if it works."""
        if (seconds := child.stopped_seconds()) > STOPPED_SECONDS:
            return f"has been stopped for {seconds:.0f} s"
        if child is self._api and (seconds := self._pulse.silence()):
            return f"has not answered for {seconds:.0f} s"
        return ""

    def _start_again(self, child: Child, what: str) -> None:
        pause = child.schedule_restart()
        log.warning("%s %s and is started again in %.1f s", child.name, what, pause)


def tell_admin_key(found: AdminKey, path: Path) -> None:
    """Where the admin key is. The key itself is said once, to a terminal alone: what is logged is kept by machines."""
    if found.secret is not None:
        log.info("made an admin key: it is kept in %s", path)
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                print(f"Admin key, shown this once: {found.secret}", file=stream, flush=True)
                break
    elif found.instead is not None:
        log.warning(
            "the admin key in %s is not valid any more; no other is made, because key %s has the scope admin",
            path, found.instead,
        )  # fmt: skip


def _reachable(host: str) -> str:
    """An address at which a server is found that listens at `host`: one that listens everywhere, on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

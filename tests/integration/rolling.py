"""Single processes of the production shape for tests: `oubli api`, `oubli worker`, `oubli beat`, each stopped alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.integration.harness import READY_SECONDS, REPOSITORY, environment, free_port, until

END_SECONDS = 60.0


@dataclass
class Member:
    """One process; its log survives restarts. `with` leaves nobody behind."""

    role: str
    folder: Path
    env: dict[str, str]
    name: str = "one"
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / f"{self.role}-{self.name}.log").read_text(errors="replace")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> Member:
        self.folder.mkdir(parents=True, exist_ok=True)
        more = {"api": ["--port", str(self.port)], "worker": ["--name", self.name]}.get(self.role, [])
        with (self.folder / f"{self.role}-{self.name}.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", self.role, *more],
                env=environment(self.env),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def health(self) -> dict[str, Any]:
        """The body of /health/ready; empty while nothing answers."""
        assert self.process.poll() is None, f"{self.role} {self.name} ended: {self.process.returncode}\n{self.log}"
        try:
            body: dict[str, Any] = httpx.get(f"{self.url}/health/ready", timeout=30.0).json()
            return body
        except httpx.TransportError:
            return {}

    def serving(self) -> Member:
        """Wait until this API may be sent requests."""
        until(lambda: self.health().get("serving"), seconds=READY_SECONDS, what=f"{self.name} serving\n{self.log}")
        return self

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, *, seconds: float = END_SECONDS) -> int:
        """Wait for its end; the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.role} {self.name} has not ended in {seconds} s:\n{self.log}") from None

    def stop(self) -> float:
        """SIGTERM, and the seconds to an end with status 0."""
        started = time.monotonic()
        self.tell()
        assert self.ended() == 0, self.log
        return time.monotonic() - started

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

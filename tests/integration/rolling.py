"""The production shape for tests, process by process: APIs, workers, beat, and HAProxy before them."""

from __future__ import annotations

import csv
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.integration.harness import READY_SECONDS, REPOSITORY, free_port, launch, until
from tests.programs import program

CONFIGURATION = REPOSITORY / "docker" / "haproxy.cfg"
END_SECONDS = 60.0


@dataclass
class TrainingExample:
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

    def start(self) -> TrainingExample:
        more = {"api": ["--port", str(self.port)], "worker": ["--name", self.name]}.get(self.role, [])
        self._process = launch(self.role, *more, env=self.env, log=self.folder / f"{self.role}-{self.name}.log")
        return self

    def health(self) -> dict[str, Any]:
        """The body of /health/ready; empty while nothing answers."""
        assert self.process.poll() is None, f"{self.role} {self.name} ended: {self.process.returncode}\n{self.log}"
        try:
            body: dict[str, Any] = httpx.get(f"{self.url}/health/ready", timeout=30.0).json()
            return body
        except httpx.TransportError:
            return {}

    def serving(self) -> TrainingExample:
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

    def __enter__(self) -> TrainingExample:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass
class Proxy:
    """HAProxy as docker/haproxy.cfg has it, before APIs at known ports instead of names in Docker's DNS."""

    folder: Path
    members: list[TrainingExample]
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Proxy:
        text = CONFIGURATION.read_text()
        found = [line for line in text.splitlines() if line.strip().startswith("server-template ")]
        servers = [f"    server {member.name} 127.0.0.1:{member.port}" for member in self.members]
        for old, new in (
            (*found, "\n".join(servers)),
            ("bind :8000", f"bind 127.0.0.1:{self.port}"),
            ("maxconn 2000\n", f"maxconn 2000\n    stats socket {self._socket}\n"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        with (self.folder / "haproxy.log").open("ab") as output:
            self._process = subprocess.Popen(
                [program("haproxy"), "-db", "-f", path], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    @property
    def _socket(self) -> Path:
        return self.folder / "haproxy.sock"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "haproxy.log").read_text(errors="replace")

    def up(self) -> set[str]:
        """The members that requests are sent to."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            said = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        rows = list(csv.DictReader(said.lstrip("# ").splitlines()))
        ours = {member.name for member in self.members}
        return {row["svname"] for row in rows if row["svname"] in ours and row["status"] == "UP"}

    def sees(self, *names: str) -> None:
        """Wait until requests are sent to these, and to no others."""
        until(lambda: self._answers() and self.up() == set(names), seconds=READY_SECONDS, what=f"{names}\n{self.log}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return self._socket.exists()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

"""The production shape in one place: two API replicas, two workers, beat, PostgreSQL, Redis; all of them mortal.

Every process is an `oubli` command as an operator would start it, with a log of its own, started again when it ends, as
compose would. The servers are `tests.mortal`'s. Nothing of it outlives the `with` block.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from service.artifacts import FolderStore
from tests.integration.harness import TINY, Done, free_port, launch, oubli, until
from tests.mortal import MortalPostgres, MortalRedis

READY_SECONDS = 180.0
SETTLE_SECONDS = 240.0
STOP_SECONDS = 15.0
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0)  # as a supervisor does: at once, then less and less eagerly
STEADY_SECONDS = 30.0  # who has lived so long starts from the first of them again

# Everything that waits waits briefly: what takes a production service a minute takes a drill some seconds.
BRISK = {
    **TINY,
    "OUBLI_TRAINING__SETTLE_MAX_SECONDS": "3",
    "OUBLI_TRAINING__RETRY_SECONDS": "1",
    "OUBLI_WORKER__LEASE_SECONDS": "6",
    "OUBLI_WORKER__HEARTBEAT_SECONDS": "1",
    "OUBLI_WORKER__RECONCILE_SECONDS": "1",
}


@dataclass
class TrainingExample:
    """A process of the fleet, and how often it had to be started."""

    name: str
    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0
    endings: list[int] = field(default_factory=list)  # exit statuses, in order


class Fleet:
    """`data` is the objects' folder; whatever else there is lies in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        data: Path | None = None,
        env: Mapping[str, str] = BRISK,
        apis: int = 2,
        workers: int = 2,
    ) -> None:
        self.folder, self.data = folder, data or folder / "data"
        self.postgres = MortalPostgres()
        self.redis = MortalRedis(folder / "redis")
        self.env = {
            **env,
            "OUBLI_DATA_DIR": str(self.data),
            "OUBLI_DATABASE_URL": self.postgres.url,
            "OUBLI_BROKER_URL": self.redis.url,
        }
        self.ports = [free_port() for _ in range(apis)]
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        commands = {f"api-{i}": ["api", "--data", str(self.data), "--port", str(p)] for i, p in enumerate(self.ports)}
        commands |= {f"worker-{i}": ["worker", "--name", f"w{i}"] for i in range(workers)}
        commands |= {"beat": ["beat"]}
        self.members = {
            name: TrainingExample(name, arguments, folder / "logs" / f"{name}.log")
            for name, arguments in commands.items()
        }
        self.apis = [self.members[f"api-{i}"] for i in range(apis)]
        self.workers = [self.members[f"worker-{i}"] for i in range(workers)]
        self.key = ""
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="fleet", daemon=True)

    # ------------------------------------------------------------------------------------------ begin and end

    def __enter__(self) -> Fleet:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self.postgres.start()
            self.redis.start()
            self._run("migrate")
            self.key = self._run("keys", "create", "--scopes", "admin").out.strip()
            self._watcher.start()
            until(self.is_ready, seconds=READY_SECONDS, what="a ready fleet")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join(10)
        running = [member.process for member in self.members.values() if member.process is not None]
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.close()
        self.postgres.close()

    def _run(self, *arguments: str) -> Done:
        done = oubli(*arguments, env=self.env)
        assert done.code == 0, done
        return done

    # ---------------------------------------------------------------------------------------------- supervision

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            for member in self.members.values():
                if member.process is None:
                    if time.monotonic() >= member.start_after:
                        self._start(member)
                elif (status := member.process.poll()) is not None:
                    self._schedule(member, status)

    def _start(self, member: TrainingExample) -> None:
        member.process = launch(*member.arguments, env=self.env, log=member.log)
        member.started_at = time.monotonic()

    def _schedule(self, member: TrainingExample, status: int) -> None:
        member.process = None
        member.endings.append(status)
        now = time.monotonic()
        member.failures = 0 if now - member.started_at > STEADY_SECONDS else member.failures + 1
        member.start_after = now + BACKOFF_SECONDS[min(member.failures, len(BACKOFF_SECONDS) - 1)]

    def send(self, member: TrainingExample, number: signal.Signals) -> None:
        """To a member; once it runs, if it is just being started again."""
        process = until(lambda: member.process, what=f"{member.name} to run")
        assert process is not None
        process.send_signal(number)

    def is_ready(self) -> bool:
        """Whether every replica is ready and every worker is heard from."""
        for index in range(len(self.ports)):
            try:
                if httpx.get(f"{self.url(index)}/health/ready", timeout=5).status_code != 200:
                    return False
            except httpx.TransportError:
                return False
        alive = {worker["name"] for worker in self.status()["workers"] if worker["alive"]}
        return {f"w{i}" for i in range(len(self.workers))} <= alive

    def resident(self) -> dict[str, int]:
        """Bytes of memory of each process that runs."""
        running = {name: member.process for name, member in self.members.items() if member.process is not None}
        return {name: psutil.Process(process.pid).memory_info().rss for name, process in running.items()}

    # ------------------------------------------------------------------------------------------------- questions

    def url(self, index: int) -> str:
        return f"http://127.0.0.1:{self.ports[index]}"

    def client(self, index: int = 0, *, timeout: float = 30.0) -> httpx.Client:
        """Of one replica, with the admin key."""
        return httpx.Client(base_url=self.url(index), headers={"Authorization": f"Bearer {self.key}"}, timeout=timeout)

    def get(self, path: str, **query: Any) -> Any:
        """The decoded answer of the first replica."""
        with self.client() as client:
            answer = client.get(path, params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status")
        return found

    def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Every item of a list."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, limit=200, **query, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    def settle(self, *, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until every cluster serves all of its samples and every erasure is completed."""

        def idle() -> bool:
            try:
                status, filled = self.status(), [c for c in self.pages("/clusters") if c["samples"]]
            except (httpx.TransportError, AssertionError):
                return False
            trained = all(c["prompt"] and c["prompt"]["members"] == c["samples"] for c in filled)
            whole = sum(c["samples"] for c in filled) == status["samples"]
            return trained and whole and set(status["erasures"]) <= {"completed"}

        until(idle, seconds=seconds, what=f"everything trained and erased; logs: {self.folder / 'logs'}")

    def stored(self) -> set[str]:
        """Ids of all samples that have an object in the store."""
        names = FolderStore(self.data / "objects").names("samples")
        return {name.split("/", 1)[1].split(".")[0] for name in names}

    def audit(self, *arguments: str) -> Done:
        """`oubli audit` with the fleet's own settings."""
        return oubli("audit", *arguments, env=self.env, seconds=300)

    def log(self, name: str) -> str:
        return self.members[name].log.read_text(errors="replace")

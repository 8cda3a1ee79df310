"""Child processes of `oubli serve`: started, looked after, ended. None outlives its parent, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1  # prctl(2)
POLL_SECONDS = 0.02
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)
STEADY_SECONDS = 60.0  # a child that has lived so long starts with the first pause again


@dataclass
class Child:
    """A supervised process, of its own session: Ctrl-C reaches the supervisor alone, and the stop is in order."""

    name: str
    command: list[str]
    nice: int = 0
    waits: bool = False  # it starts once the API listens, and leaves the cores to what is waited for until then
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic seconds, as all times here
    restarts: int = 0
    start_after: float = 0.0
    stopped_since: float | None = None

    def start(self) -> None:
        """To be called in the main thread: the child dies with the thread that has started it."""
        self.process = subprocess.Popen(
            self.command, start_new_session=True, preexec_fn=_in_child(os.getpid(), self.nice)
        )
        self.started_at, self.stopped_since = time.monotonic(), None

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more; it stays a zombie until `end`, so that no other process gets its number."""
        return self.process is not None and _news(self.process) in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)

    def stopped_seconds(self) -> float:
        """How long it has been seen stopped, by SIGSTOP or a debugger; 0 while it runs."""
        now = time.monotonic()
        if self.process is None or _news(self.process) not in (os.CLD_STOPPED, os.CLD_TRAPPED):
            self.stopped_since = None
            return 0.0
        if self.stopped_since is None:
            self.stopped_since = now
        return now - self.stopped_since

    def end(self) -> int:
        """Kill it, and whatever it has started and left behind; its exit status. A stopped one dies of this as well."""
        assert self.process is not None
        process, self.process = self.process, None
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # of a session of its own; a zombie still counts
        return process.wait()

    def schedule_restart(self) -> float:
        """It has ended; seconds until it is to be started again, which grow while it ends soon."""
        lived = time.monotonic() - self.started_at
        self.restarts = 0 if lived > STEADY_SECONDS else self.restarts + 1
        pause = BACKOFF_SECONDS[min(self.restarts, len(BACKOFF_SECONDS) - 1)]
        self.start_after = time.monotonic() + pause
        return pause


def stop_all(children: Sequence[Child], *, seconds: float) -> None:
    """Ask all to end; kill, after so many seconds, those that have not."""
    running = [child for child in children if child.process is not None]
    for child in running:
        if child.process is not None and not child.has_ended:
            os.kill(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while not all(child.has_ended for child in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for child in running:
        child.end()


def _news(process: subprocess.Popen[bytes]) -> int | None:
    """What has become of it (CLD_EXITED, CLD_STOPPED, ...); None while it runs. The news is there to be asked again."""
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_code if found is not None else None


def _in_child(parent: int, nice: int) -> Callable[[], None]:
    """To be run between fork and exec: die with the parent, even with one that is killed; be as nice as told."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it was killed before the line above
        os.nice(nice)

    return prepare

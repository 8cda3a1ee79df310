"""The supervisor's children: which state they are in, how they end, and what is left of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from service.cli.children import Child, stop_all
from service.cli.pulse import Pulse

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(own.pid))
time.sleep(600)
"""


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Ended; perhaps its parent has not noticed."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@contextmanager
def started(*command: str) -> Iterator[Child]:
    child = Child("child", list(command))
    child.start()
    try:
        yield child
    finally:
        if child.process is not None:
            child.end()


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[Child, int]]:
    """A child that ignores SIGTERM, and the process that it has started."""
    with started(sys.executable, "-c", STUBBORN, str(tmp_path / "pid")) as child:
        until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text(), "its child")
        yield child, int((tmp_path / "pid").read_text())


def test_one_that_does_not_listen_is_killed_with_what_it_has_started(stubborn: tuple[Child, int]) -> None:
    child, grandchild = stubborn
    assert child.process is not None
    pid = child.process.pid
    with started(sys.executable, "-c", "import time; time.sleep(600)") as other:
        stop_all([child, other, Child("never started", ["false"])], seconds=0.5)
        assert (child.process, other.process) == (None, None)
    until(lambda: is_gone(pid) and is_gone(grandchild), "both gone")


def test_a_stopped_child_is_seen_and_ends(stubborn: tuple[Child, int]) -> None:
    child, grandchild = stubborn
    assert child.process is not None
    assert child.stopped_seconds() == 0
    os.kill(child.process.pid, signal.SIGSTOP)
    until(lambda: child.stopped_seconds() > 0.1, "seen as stopped, and for how long")
    assert not child.has_ended
    os.kill(child.process.pid, signal.SIGCONT)
    until(lambda: child.stopped_seconds() == 0, "seen as going on")
    os.kill(child.process.pid, signal.SIGSTOP)
    until(lambda: child.stopped_seconds() > 0, "stopped again")
    assert child.end() == -signal.SIGKILL
    until(lambda: is_gone(grandchild), "its child gone")


def test_the_end_of_one_that_was_not_told_to_is_seen_with_its_status() -> None:
    with started(sys.executable, "-c", "raise SystemExit(2)") as child:
        until(lambda: child.has_ended, "its end")
        assert child.has_ended  # asked again
        assert child.end() == 2
        assert child.schedule_restart() < child.schedule_restart() <= 10


# ------------------------------------------------------------------------------------------------------------- pulse


class Silent:
    """A server that answers while it may."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.answers.wait(60)
                self.send_response(503)  # whatever it says, it is alive
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.answers.set()
    server.server.shutdown()
    server.server.server_close()


def test_an_api_that_answers_no_more_is_noticed_and_its_successor_has_time(silent: Silent) -> None:
    silent.answers.set()
    pulse = Pulse("127.0.0.1", silent.port, patience=1.0, first=3600)
    pulse.begin()
    until(lambda: silent.asked > 2, "questions")
    assert pulse.silence() == 0
    silent.answers.clear()
    until(pulse.silence, "its silence")
    pulse.begin()
    asked = silent.asked
    until(lambda: silent.asked > asked + 2, "more questions, unanswered")
    assert pulse.silence() == 0  # it may still be loading
    pulse.stop()


def test_an_api_that_never_answers_is_given_up() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        pulse = Pulse("127.0.0.1", taken.getsockname()[1], patience=0.2, first=0.5)
        pulse.begin()
        until(pulse.silence, "its silence")
        pulse.stop()

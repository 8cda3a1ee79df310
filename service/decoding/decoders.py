"""The decoder processes: kept, fed, replaced when they die, and ended.

Promises: an image that takes more CPU time than its budget is refused in words, and so is one that makes its decoder
crash twice; neither changes the outcome of others, also of those that were handed over with it. A file whose caller has
gone is not begun, and no longer decoded a moment later. `stop` waits for no image. There is one process more than
one caller can hold (`turns`). A thread of this process speaks with each decoder, and sleeps while that one works.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

from models.image import ImageError, NotAnImage
from service.decoding import protocol
from service.decoding.protocol import DecodedImage, Rules
from service.decoding.turns import Piece, Replies, Request, Turns
from service.errors import Invalid, ServiceError, Unavailable, UnsupportedMedia

log = logging.getLogger(__name__)

SHARE = 16  # small files that a decoder takes at a time: handing over costs as much as decoding one
TRIES = 2  # a file that was in a dying decoder's hands may be innocent once
ABANDON_SECONDS = 0.3  # a file whose caller has gone may be done by then; to start another decoder costs as much
START_SECONDS = 60.0  # patience with a new process, which loads Pillow on a machine that may be busy
PAUSE_SECONDS = 1.0  # after one that did not start
DYING_SECONDS = 1.0  # until a process whose socket is closed has ended
_ROOT = Path(__file__).parents[2]  # where Python finds `service`
_ENVIRONMENT = ("PATH", "LANG", "LC_", "LD_", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON", "COVERAGE")  # no secrets of ours

DecodeResult = DecodedImage | ServiceError


class Decoders:
    """Processes that decode for every request of this one.

    most  processes that one caller's requests can keep busy at once; there is one more.
    """

    def __init__(self, rules: Rules, *, most: int) -> None:
        self._turns: Turns[DecodeResult] = Turns(most=most)
        self._most = most
        self._each = [_Decoder(rules, self._turns) for _ in range(most + 1)]
        for decoder in self._each:
            decoder.thread.start()

    async def decode(
        self, files: Sequence[bytes], *, caller: str, seconds: float, renewed: bool = False
    ) -> AsyncGenerator[Replies[DecodeResult], None]:
        """The outcomes of the files, by place, as they come; closing the iterator ends all work for them.

        seconds  patience, after which the rest is told that it waited for too long.
        renewed  with every part: the wait is for the next one, not for all.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Replies[DecodeResult] | None] = asyncio.Queue()

        def deliver(part: Replies[DecodeResult] | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: no caller waits
                loop.call_soon_threadsafe(found.put_nowait, part)

        request = Request(files, caller, max(1, min(SHARE, -(-len(files) // self._most))), deliver)
        missing = set(range(len(files)))
        until = loop.time() + seconds
        if missing and not self._turns.add(request):
            raise Unavailable(_STOPPING)
        try:
            while missing:
                part = await _until(found, until)
                if isinstance(part, Unavailable):
                    part = [(place, part) for place in sorted(missing)]
                missing -= {place for place, _ in part}
                until = loop.time() + seconds if renewed else until
                yield part
        finally:
            if files:
                self._abandon(request)

    def _abandon(self, request: Request[DecodeResult]) -> None:
        """End all work for a request; without effect for one that is answered."""
        self._turns.finish(request)
        for decoder in self._each:
            piece = decoder.piece
            if piece is not None and piece.request is request:
                killing = threading.Timer(ABANDON_SECONDS, decoder.kill_at, (piece,))
                killing.daemon = True
                killing.start()

    def stop(self) -> None:
        """Stop at once, whatever is being decoded; every waiting request is told so."""
        self._turns.close()
        for decoder in self._each:
            decoder.end()
        for decoder in self._each:
            decoder.thread.join()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that are alive now."""
        return [pid for decoder in self._each if (pid := decoder.pid) is not None]

    @property
    def busy(self) -> list[int]:
        """Ids of the processes that have files in hand."""
        return [pid for decoder in self._each if decoder.piece is not None and (pid := decoder.pid) is not None]


_STOPPING = "The service is shutting down."


async def _until(
    found: asyncio.Queue[Replies[DecodeResult] | None], until: float
) -> Replies[DecodeResult] | Unavailable:
    """The next outcomes; Unavailable if none come until then, or the service stops."""
    try:
        async with asyncio.timeout_at(until):
            part = await found.get()
    except TimeoutError:
        return Unavailable("The image has waited for too long. Try again.", retry_after=1)
    return part if part is not None else Unavailable(_STOPPING)


class _Decoder:
    """A process, and the thread that speaks with it."""

    def __init__(self, rules: Rules, turns: Turns[DecodeResult]) -> None:
        self.thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self.piece: Piece[DecodeResult] | None = None  # in its hands
        self._rules = rules
        self._turns = turns
        self._lock = threading.Lock()  # of what follows, and of `piece`
        self._ended = False
        self._child: _Child | None = None

    def _run(self) -> None:
        while self._living() is not None and (piece := self._turns.take()) is not None:
            child = self._living()  # it may have died while it had nothing to do
            with self._lock:
                self.piece = piece
            found, back = self._work(child, piece) if child is not None else ([], piece.places)
            with self._lock:
                self.piece = None
            self._turns.put_back(piece, back)
            if found:
                piece.request.deliver(found)
        if self._child is not None:
            self._child.kill()
            self._child.reap()

    @property
    def pid(self) -> int | None:
        """The id of the process; None if there is none."""
        child = self._child
        return child.process.pid if child is not None and child.process.poll() is None else None

    def kill_at(self, piece: Piece[DecodeResult]) -> None:
        """Kill the process if it still has that piece in hand."""
        with self._lock:
            if self.piece is piece and self._child is not None:
                self._child.kill()

    def end(self) -> None:
        """Kill the process, and start no other."""
        with self._lock:
            self._ended = True
            if self._child is not None:
                self._child.kill()

    def _living(self) -> _Child | None:
        """A process that is ready; None once the service stops."""
        if self._child is not None and self._child.process.poll() is not None:
            self._child.reap()
            self._child = None
        while self._child is None and not self._turns.wait(0):
            try:
                self._child = self._started()
            except (OSError, EOFError) as error:
                log.error("a decoder does not start: %s", type(error).__name__)
                self._turns.wait(PAUSE_SECONDS)
        return self._child

    def _started(self) -> _Child:
        child = _Child(self._rules)
        with self._lock:
            self._child = child  # `end` must find it, also while it is starting
            if self._ended:
                child.kill()
        try:
            child.wait_until_ready()
        except BaseException:
            with self._lock:
                self._child = None
            child.kill()
            child.reap()
            raise
        return child

    def _work(self, child: _Child, piece: Piece[DecodeResult]) -> tuple[Replies[DecodeResult], list[int]]:
        """The outcomes of its files, and the places of those that must be handed out again."""
        found: Replies[DecodeResult] = []
        try:
            protocol.send_files(child.socket, [piece.request.files[place] for place in piece.places])
            while len(found) < len(piece.places):
                reply = protocol.receive_reply(child.socket, self._rules)
                if reply is None:
                    break
                place = piece.places[len(found)]
                found.append((place, _refused(reply) if isinstance(reply, ImageError) else reply))
        except Exception as error:  # mostly EOFError: whatever it is, this process is not spoken with again
            with self._lock:
                self._child = None
            at, *others = piece.places[len(found) :]
            words = self._why(child.reap(), error, piece.request, at)
            return (found, [at, *others]) if words is None else ([*found, (at, Invalid(words))], others)
        return found, piece.places[len(found) :]

    def _why(self, code: int, error: Exception, request: Request[DecodeResult], place: int) -> str | None:
        """Why the file that a process died at is refused; None if it is to be tried again."""
        if code == -signal.SIGPROF:
            return (
                f"Decoding the image takes more than {self._rules.cpu_seconds:g} s of a processor's time. "
                "Save it again, as an ordinary JPEG."
            )
        if request.gone or self._ended:
            return None
        log.warning("a decoder ended (%s, %s); another one is started", code, type(error).__name__)
        request.deaths[place] += 1
        return "The image makes its decoder crash." if request.deaths[place] == TRIES else None


def _refused(error: ImageError) -> ServiceError:
    return UnsupportedMedia(str(error)) if isinstance(error, NotAnImage) else Invalid(str(error))


class _Child:
    """A decoder process. All but `kill` is for the one thread that speaks with it."""

    def __init__(self, rules: Rules) -> None:
        self.socket, theirs = socket.socketpair()
        lifeline, self._kept_open = os.pipe()  # Python lets no other process inherit the end that is kept
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.decoding.child", rules.to_json(), str(theirs.fileno())],
                stdin=lifeline,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd=_ROOT,
                env=_environment(),
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)

    def wait_until_ready(self) -> None:
        """Wait until the process can decode. Raises OSError or EOFError if it ends, or takes `START_SECONDS`."""
        self.socket.settimeout(START_SECONDS)
        if self.socket.recv(1) != protocol.READY:
            raise EOFError
        self.socket.settimeout(None)

    def kill(self) -> None:
        """Kill the process with SIGKILL; of no effect on one that has ended."""
        self.process.kill()

    def reap(self) -> int:
        """Wait until the process has ended, and kill it if that takes `DYING_SECONDS`; its exit status.

        To be called for a process whose socket has failed, or which has broken the protocol.
        """
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DYING_SECONDS)
        self.process.kill()
        code = self.process.wait()
        self._close()
        return code

    def _close(self) -> None:
        self.socket.close()
        os.close(self._kept_open)


def _environment() -> dict[str, str]:
    """The variables that Python and its libraries need: no secrets, since the process reads files of unknown origin."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    return {**kept, "OPENBLAS_NUM_THREADS": "1"}

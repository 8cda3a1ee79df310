"""The order of decoding: callers take turns, and within a caller its requests do.

Promises: a request of many files does not keep a request of one file waiting, nor a caller of many requests another
caller; a caller has at most `most` decoders at once, so that one more is free for another caller's small picture while
all of one caller's are slow. Files of a request are handed out in order. Knows nothing of processes.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

SHARE_BYTES = 1 << 18  # of the files that are handed out together

Result = TypeVar("Result")
Replies = list[tuple[int, Result]]


@dataclass(eq=False)
class Request(Generic[Result]):
    """Files of one caller that wait to be decoded.

    share    how many small files a decoder takes at a time.
    deliver  called, on any thread, with the outcomes of some files, by place; with None if the queue is closed: the
             files without an outcome will have none.
    """

    files: Sequence[bytes]
    caller: str
    share: int
    deliver: Callable[[Replies[Result] | None], None]
    left: deque[int] = field(init=False)
    deaths: Counter[int] = field(default_factory=Counter)  # of decoders, by the file that they were at
    gone: bool = False  # its caller waits no more

    def __post_init__(self) -> None:
        self.left = deque(range(len(self.files)))


@dataclass(eq=False)
class Piece(Generic[Result]):
    """Files of one request that a decoder has in hand."""

    request: Request[Result]
    places: list[int]


class Turns(Generic[Result]):
    """The queue; every method may be called from any thread.

    most  pieces that one caller has in hand.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Request[Result]]] = {}  # by caller, the next one first
        self._in_hand: Counter[str] = Counter()
        self._unfinished: list[Request[Result]] = []
        self._closed = False

    def add(self, request: Request[Result]) -> bool:
        """Put a request behind those of its caller; False once the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            self._unfinished.append(request)
            self._enqueue(request)
            return True

    def take(self) -> Piece[Result] | None:
        """The next files, as soon as there are some; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                if (piece := self._next()) is not None:
                    return piece
                self._changed.wait()
            return None

    def put_back(self, piece: Piece[Result], places: Sequence[int] = ()) -> None:
        """Take a piece out of a decoder's hands; `places` of it were not decoded, and are its request's next ones."""
        with self._changed:
            caller = piece.request.caller
            self._in_hand[caller] -= 1
            self._in_hand += Counter()  # forgets zeros
            if places and not piece.request.gone:
                queued = bool(piece.request.left)
                piece.request.left.extendleft(reversed(places))
                if not queued:
                    self._enqueue(piece.request)
            self._changed.notify_all()

    def finish(self, request: Request[Result]) -> None:
        """Drop a request whose caller waits no more: files of it that are not begun never are."""
        with self._changed:
            request.gone = True
            self._unfinished.remove(request)
            queue = self._waiting.get(request.caller)
            if queue is not None and request in queue:
                queue.remove(request)
                if not queue:
                    del self._waiting[request.caller]

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until the queue is closed; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> None:
        """Hand out nothing more; requests that are not answered are told (`Request.deliver`)."""
        with self._changed:
            self._closed = True
            waiting = list(self._unfinished)
            self._waiting.clear()
            self._changed.notify_all()
        for request in waiting:
            request.deliver(None)

    def _enqueue(self, request: Request[Result]) -> None:
        self._waiting.setdefault(request.caller, deque()).append(request)
        self._changed.notify_all()

    def _next(self) -> Piece[Result] | None:
        caller = next((caller for caller in self._waiting if self._in_hand[caller] < self._most), None)
        if caller is None:
            return None
        queue = self._waiting.pop(caller)
        request = queue.popleft()
        piece = Piece(request, _share(request))
        if request.left:
            queue.append(request)
        if queue:
            self._waiting[caller] = queue  # behind all other callers
        self._in_hand[caller] += 1
        return piece


def _share(request: Request[Result]) -> list[int]:
    """As many of its next files as are handed out together: one, or some that are small."""
    places = [request.left.popleft()]
    size = len(request.files[places[0]])
    while request.left and len(places) < request.share:
        size += len(request.files[request.left[0]])
        if size > SHARE_BYTES:
            break
        places.append(request.left.popleft())
    return places

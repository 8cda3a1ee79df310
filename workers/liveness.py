"""Whether this worker still hears: alive, idle, and yet no bell arrives.

Promises: deaf is only who is idle while work waits that it could do, has heard nothing for `seconds`, and whose broker
takes rings all the while. A broker that is dead, hangs or refuses is not deafness: to start anew would help nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


class Liveness:
    """Told by tasks when they begin and end, asked by the heartbeat."""

    def __init__(
        self, seconds: float, *, ring: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ring` rings for this worker and says whether the broker took it; `clock` counts seconds."""
        self._seconds = seconds
        self._ring = ring
        self._clock = clock
        self._lock = Lock()
        self._busy = False
        self._waiting_since: float | None = None  # work has, and nothing was heard
        self._ringing_since: float | None = None  # the broker has taken every ring from then on

    def heard(self) -> None:
        """A bell has arrived, and what it asks for is being done."""
        with self._lock:
            self._busy, self._waiting_since, self._ringing_since = True, None, None

    def done(self) -> None:
        """It has been done."""
        with self._lock:
            self._busy = False

    def is_stalled(self, *, work_waits: bool) -> bool:
        """To be asked with every heartbeat. After half the time it rings by itself, to learn where the fault is."""
        now = self._clock()
        with self._lock:
            if self._busy or not work_waits:
                self._waiting_since = self._ringing_since = None
                return False
            if self._waiting_since is None:
                self._waiting_since = now
            waited = now - self._waiting_since
        if waited < self._seconds / 2:
            return False
        taken = self._ring()
        with self._lock:
            if self._waiting_since is None:  # heard meanwhile
                return False
            if not taken:
                self._ringing_since = None
                return False
            if self._ringing_since is None:
                self._ringing_since = now
            return waited >= self._seconds and now - self._ringing_since >= self._seconds / 2

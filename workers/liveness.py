"""Whether this worker has stalled: alive and idle, and no notification arrives though work waits.

Promises: a worker counts as stalled only when it is idle while work waits that it could do, has got no notification for
`seconds`, and the broker has accepted its own test notifications all that time. While the broker is down, hangs or
refuses, no worker counts as stalled: starting it again would not help.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


class Liveness:
    """What is known of a worker's notifications: told by its tasks as they begin and end, asked by its heartbeat."""

    def __init__(
        self, seconds: float, *, notify: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`notify` sends this worker a notification and says whether the broker took it; `clock` counts seconds."""
        self._seconds = seconds
        self._notify = notify
        self._clock = clock
        self._lock = Lock()
        self._busy = False
        self._waiting_since: float | None = None  # since when work waits and no notification has arrived
        self._sending_since: float | None = None  # since when the broker has taken every notification of our own

    def heard(self) -> None:
        """A notification has arrived, and its work begins."""
        with self._lock:
            self._busy, self._waiting_since, self._sending_since = True, None, None

    def done(self) -> None:
        """That work has ended."""
        with self._lock:
            self._busy = False

    def is_stalled(self, *, work_waits: bool) -> bool:
        """Whether the worker has stalled; asked with every heartbeat.

        After half of `seconds` it sends itself notifications, to learn whether the fault is the broker's.
        """
        now = self._clock()
        with self._lock:
            if self._busy or not work_waits:
                self._waiting_since = self._sending_since = None
                return False
            if self._waiting_since is None:
                self._waiting_since = now
            waited = now - self._waiting_since
        if waited < self._seconds / 2:
            return False
        taken = self._notify()
        with self._lock:
            if self._waiting_since is None:  # a notification has arrived meanwhile
                return False
            if not taken:
                self._sending_since = None
                return False
            if self._sending_since is None:
                self._sending_since = now
            return waited >= self._seconds and now - self._sending_since >= self._seconds / 2

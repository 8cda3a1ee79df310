"""How long something has been so, in all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Stopwatch:
    """Adds up the time during which it is told to run. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._total = 0.0
        self._since: float | None = None

    def run(self, running: bool) -> None:
        """Run from now on, or stand still; nothing changes if it does so already."""
        with self._lock:
            now = self._clock()
            if self._since is not None:
                self._total += now - self._since
            self._since = now if running else None

    @property
    def seconds(self) -> float:
        """All the time it has run, up to now."""
        with self._lock:
            return self._total + (self._clock() - self._since if self._since is not None else 0.0)

"""The thread that keeps the quality report of a replica up to date, in what time the others leave."""

from __future__ import annotations

import logging
import threading
import time
from typing import Generic, TypeVar

from service.registry.records import Marks
from service.serving.lanes import give_way
from service.serving.quality import Quality
from service.settings import Settings

log = logging.getLogger(__name__)

NICE = 19  # of the thread: whatever else wants the core goes first
Report = TypeVar("Report", bound=Quality)

PATIENCE = 60.0  # seconds between two attempts, if nothing has changed


class QualityUpdater(Generic[Report]):
    """Looks at the marks from a timer, and computes once changes have been quiet for a while, or go on for long.

    turn  held while it computes: updaters that share one take turns, and together use the part of a core that
          `quality.share` allows.
    """

    def __init__(self, quality: Report, settings: Settings, *, turn: threading.Lock | None = None) -> None:
        self.quality = quality
        self.turn = turn if turn is not None else threading.Lock()
        self._settings = settings.quality
        self._seconds = settings.worker.heartbeat_seconds
        self._seen: Marks | None = None  # at the last look
        self._done: Marks | None = None  # at the last computation
        self._changed = self._waiting_since = self._tried = 0.0  # monotonic seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quality-updater", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and a computation that is under way."""
        self._stopping.set()
        self.quality.stop()
        self._thread.join(timeout=5)

    def look(self, now: float) -> bool:
        """Compute if it is time to; whether it was tried. `now` in monotonic seconds."""
        marks = self.quality.marks()
        if not self._is_due(marks, now):
            return False
        with self.turn:
            measured = self.quality.compute()
        self._tried, self._done = now, measured.marks if measured is not None else marks
        self._seen = self._done
        return True

    def _is_due(self, marks: Marks, now: float) -> bool:
        if marks != self._seen:
            if self._seen is None or self._seen == self._done:
                self._waiting_since = now
            self._seen, self._changed = marks, now
        if marks == self._done:
            return not self.quality.is_done(marks) and now - self._tried >= PATIENCE
        quiet = now - self._changed >= self._settings.settle_seconds
        return quiet or now - self._waiting_since >= self._settings.settle_max_seconds

    def _run(self) -> None:
        give_way(NICE)
        while not self._stopping.wait(self._seconds):
            try:
                self.look(time.monotonic())
            except Exception:  # the registry may be away for a while
                log.exception("it cannot be seen whether quality must be computed; it will be tried again")

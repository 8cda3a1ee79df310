"""The thread that keeps a replica's closed-form tier up to date."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)


class Tier(Protocol):
    """What an updater keeps up to date: the closed-form tier, or that of adapted descriptors."""

    unsolved: Callable[[], object]

    def keep(self) -> bool:
        """Bring it up to date; whether more objects may be deleted now."""
        ...


class ClosedFormUpdater:
    """A thread that keeps a closed-form tier up to date: soon after it is woken, and from a timer."""

    def __init__(self, tier: Tier, seconds: float) -> None:
        self.afterwards: Callable[[], None] = lambda: None  # called when more objects may be deleted
        self._tier = tier
        self._seconds = seconds
        self._wake = threading.Event()
        tier.unsolved = self.wake
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="closed-form-updater", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Ask for an update: samples may have been added or removed. Returns at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, after an update that is under way."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if self._stopping:
                return
            try:
                if self._tier.keep():
                    self.afterwards()
            except Exception:  # the registry may be away for a while; this replica is not
                log.exception("the closed-form tier could not be kept up to date; it will be tried again")

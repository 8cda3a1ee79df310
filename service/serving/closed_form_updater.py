"""The thread that keeps a replica's closed-form tier up to date."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

REST = (
    4  # pause after an update, as a multiple of its duration: samples that are added meanwhile are folded in together
)
LONGEST_REST = 2.0  # seconds


class Tier(Protocol):
    """What an updater keeps up to date: the closed-form tier, or that of adapted descriptors."""

    unsolved: Callable[[], object]

    @property
    def is_whole(self) -> bool:
        """Whether it answers with all that it is to know."""
        ...

    def is_behind(self) -> bool:
        """Whether a removed sample is still in the sums."""
        ...

    def keep(self) -> bool:
        """Bring it up to date; whether more objects may be deleted now."""
        ...


class ClosedFormUpdater:
    """A thread that keeps a closed-form tier up to date: soon after it is woken, and from a timer.

    Under constant additions it takes a fifth of a core, and one solve serves all that have come since the last one. A
    removed sample ends the pause; while only the quick head answers, the pause is as long as the update.
    """

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
            began = time.monotonic()
            try:
                if self._tier.keep():
                    self.afterwards()
                self._rest(time.monotonic() - began)
            except Exception:  # the registry may be away for a while; this replica is not
                log.exception("the closed-form tier could not be kept up to date; it will be tried again")

    def _rest(self, worked: float) -> None:
        """Pause, unless a sample is removed; `worked` in seconds. What wakes it meanwhile is looked at afterwards."""
        end = time.monotonic() + min(REST * worked if self._tier.is_whole else worked, LONGEST_REST)
        is_woken = False
        while (left := end - time.monotonic()) > 0 and self._wake.wait(left):
            self._wake.clear()
            is_woken = True
            if self._stopping or self._tier.is_behind():
                break
        if is_woken:
            self._wake.set()

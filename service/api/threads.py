"""Threads for one kind of work, with a bounded number of calls that wait for one.

FastAPI runs every plain endpoint on one pool of threads. Intake has its own, so that uploads, however many, leave
erasures and look-ups theirs. A caller who has no other upload under way finds the line a quarter longer, so that
a client that fills it does not get all others refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from service.errors import Busy

Result = TypeVar("Result")


class Threads:
    """A pool of threads: `threads` calls run at once, `waiting` more may wait."""

    def __init__(self, threads: int, *, waiting: int) -> None:
        self._limiter = CapacityLimiter(threads)
        self._most = threads + waiting
        self._inside: Counter[str] = Counter()  # calls that are made or wait, by caller; the event loop alone counts

    async def run(self, call: Callable[[], Result], *, caller: str = "") -> Result:
        """Run the call in one of these threads. Raises Busy if too many wait already, or what the call raises."""
        most = self._most if self._inside[caller] else self._most + self._most // 4
        if self._inside.total() >= most:
            raise Busy("So many uploads are being taken in that no more can wait. Try again in a moment.")
        self._inside[caller] += 1
        try:
            return await to_thread.run_sync(call, limiter=self._limiter)
        finally:
            self._inside[caller] -= 1
            self._inside += Counter()  # forgets zeros

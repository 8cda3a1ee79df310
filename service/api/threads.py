"""Threads for one kind of work, and a line of bounded length before them.

FastAPI runs every plain endpoint on one pool of threads. Intake has its own, so that uploads, however many, leave
erasures and look-ups theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from service.errors import Busy

Result = TypeVar("Result")


class Threads:
    """So many calls at once; so many more wait."""

    def __init__(self, threads: int, *, waiting: int) -> None:
        self._limiter = CapacityLimiter(threads)
        self._waiting = waiting

    async def run(self, call: Callable[[], Result]) -> Result:
        """What the call returns, in a thread of these. Raises Busy if too many wait already, or what it raises."""
        now = self._limiter.statistics()
        if now.borrowed_tokens >= now.total_tokens and now.tasks_waiting >= self._waiting:
            raise Busy("So many uploads are being taken in that no more can wait. Try again in a moment.")
        return await to_thread.run_sync(call, limiter=self._limiter)

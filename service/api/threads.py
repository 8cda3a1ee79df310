"""Threads for one kind of work, with a bounded number of calls that wait for one, and not for long.

FastAPI runs every plain endpoint on one pool of threads. Intake has its own, so that uploads, however many, leave
erasures and look-ups theirs. Callers take turns, and one caller has at most all threads but one, so that one caller's
uploads do not stand before another's one. A caller who has no other upload under way finds the line a quarter longer,
so that a client that fills it does not get all others refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from service.errors import Busy, Unavailable
from service.fair_queue import FairQueue

Result = TypeVar("Result")


class Threads:
    """A pool of threads: `threads` calls run at once, `waiting` more may wait for `seconds` each. On one event loop."""

    def __init__(self, threads: int, *, waiting: int, seconds: float = float("inf")) -> None:
        self._limiter = CapacityLimiter(threads)  # its own threads; the line below never lets more in
        self._threads = threads
        self._share = max(1, threads - 1)  # threads of one caller
        self._most = threads + waiting
        self._patience = seconds if seconds != float("inf") else None
        self._inside: Counter[str] = Counter()  # calls that are made or wait, by caller
        self._running: Counter[str] = Counter()  # calls that are made, by caller
        self._line: FairQueue[asyncio.Future[None]] = FairQueue()

    async def run(self, call: Callable[[], Result], *, caller: str = "") -> Result:
        """Run the call in one of these threads, or raise what it raises.

        Raises Busy if too many wait already, and Unavailable if it has waited for too long: it was then not begun.
        """
        most = self._most if self._inside[caller] else self._most + self._most // 4
        if self._inside.total() >= most:
            raise Busy("So many uploads are being taken in that no more can wait. Try again in a moment.")
        self._inside[caller] += 1
        try:
            await self._wait_for_turn(caller)
            try:
                return await to_thread.run_sync(call, limiter=self._limiter)
            finally:
                self._end(caller)
        finally:
            self._inside[caller] -= 1
            self._inside += Counter()  # forgets zeros

    async def _wait_for_turn(self, caller: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.add(caller, turn)
        self._begin()
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came at the very moment
                self._end(caller)
            else:
                self._line.discard(caller, turn)
            if isinstance(error, TimeoutError):
                raise Unavailable("The upload has waited for too long. Try again.", retry_after=1) from None
            raise

    def _begin(self) -> None:
        """Give free threads to those whose turn it is."""
        while self._running.total() < self._threads:
            taken = self._line.take(lambda caller: self._running[caller] < self._share)
            if taken is None:
                return
            caller, turn = taken
            if not turn.done():  # cancelled a moment ago: it is about to leave
                self._running[caller] += 1
                turn.set_result(None)

    def _end(self, caller: str) -> None:
        self._running[caller] -= 1
        self._running += Counter()  # forgets zeros
        self._begin()

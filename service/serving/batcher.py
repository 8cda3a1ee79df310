"""Dynamic batching: the items that have gathered while the device was busy are computed next, together.

Knows nothing of models: it gathers items, calls `run` on the device's threads, and hands results back. Promises: at
most `max_batch` items a call, and as few as `portion` says; at most `max_queue` items announced or waiting, above which
callers are refused (Busy), and somewhat more for a caller who has nothing else under way (`expect`); an item waits for
others no longer than `max_wait`, and not at all while none is announced; callers take turns, so that one caller's 256
images do not stand before another's one; an item that has waited for `deadline`, here and before, is refused and not
computed; items whose caller has gone are dropped; an exception reaches every caller of its batch, and the loop goes on;
an idle batcher uses no CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from service import log, tracing
from service.errors import Busy, Unavailable
from service.fair_queue import FairQueue

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """Limits of a batcher; times in seconds.

    max_batch  most items in one call of `run`.
    max_queue  most items announced or waiting.
    lanes      calls of `run` at once.
    max_wait   longest wait of an item for others, while some are announced.
    deadline   longest wait of an item, from when it began (`Announcement.submit`).
    """

    max_batch: int
    max_queue: int
    lanes: int = 1
    max_wait: float = 0.0
    deadline: float = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """An item, the future of its result, when its wait began and must end, and the requests and trace it belongs to."""

    item: Item
    future: asyncio.Future[Result]
    since: float
    until: float
    causes: tuple[str, ...]
    trace: Mapping[str, str]


class Announcement(Generic[Item, Result]):
    """Items that are being prepared: the queue has places for them, and a batch may wait a moment for them."""

    def __init__(self, batcher: Batcher[Item, Result], count: int, *, caller: str) -> None:
        self._batcher = batcher
        self.left = count
        self.caller = caller

    async def submit(self, items: Sequence[Item], *, since: float | None = None) -> list[Result]:
        """The results of these items, in order. Raises Unavailable if they waited for too long.

        since  when their wait began, by `time.monotonic`; by default now.
        """
        return await self._batcher.take(self, items, time.monotonic() if since is None else since)


class Batcher(Generic[Item, Result]):
    """The queue of one device: gathers items of many callers into batches."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        limits: Limits,
        *,
        executor: Executor,
        portion: Callable[[Sequence[Item], int], int] = lambda items, lanes: len(items),
        observed: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._portion = portion  # how many of the waiting items, at least one, a lane takes when so many lanes are free
        self._free = limits.lanes
        self._limits = limits
        self._observed = observed  # called for every batch with its number of items and its seconds
        self._executor = executor
        self.refused = 0  # items that did not fit the queue
        self.late = 0  # items that waited for too long
        self._announced = 0
        self._requests: Counter[str] = Counter()  # under way, by caller
        self._waiting: FairQueue[_Waiting[Item, Result]] = FairQueue()
        self._changed = asyncio.Event()
        self._gathering = asyncio.Lock()
        self._lanes: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the lanes; to be called from the event loop."""
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(self._limits.lanes)]

    async def stop(self) -> None:
        """Stop the lanes; callers that still wait are refused."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        while taken := self._waiting.take():
            _, waiting = taken
            if not waiting.future.done():
                waiting.future.set_exception(Unavailable("The service is shutting down."))

    @property
    def depth(self) -> int:
        """The number of waiting items."""
        return len(self._waiting)

    @property
    def max_queue(self) -> int:
        """The largest number of items that may be announced or wait."""
        return self._limits.max_queue

    @contextmanager
    def expect(self, count: int, *, caller: str = "") -> Iterator[Announcement[Item, Result]]:
        """Announce items that are being prepared. Raises Busy unless all of them fit the queue.

        caller  takes turns with other callers; for one that has no other request the queue is a quarter longer.
        """
        most, expected = self._limits.max_queue, self._announced + len(self._waiting)
        if expected and not self._requests[caller]:  # else a client that keeps it full would have others refused
            most += most // 4
        if expected + count > most:
            self.refused += count
            raise Busy(f"{expected} images are waiting already. Try again in a moment.")
        announcement = Announcement(self, count, caller=caller)
        self._announced += count
        self._requests[caller] += 1
        try:
            yield announcement
        finally:
            self._requests[caller] -= 1
            self._requests += Counter()  # forgets zeros
            self._withdraw(announcement, announcement.left)

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Announce and submit items that are ready; their results."""
        with self.expect(len(items)) as announcement:
            return await announcement.submit(items)

    async def take(self, announcement: Announcement[Item, Result], items: Sequence[Item], since: float) -> list[Result]:
        """Put announced items into the queue; their results."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        of = (now, since + self._limits.deadline, log.causes(), tracing.headers())
        for item, future in zip(items, futures, strict=True):
            self._waiting.add(announcement.caller, _Waiting(item, future, *of))
        self._withdraw(announcement, len(items))
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()  # of no effect on those that are done

    def _withdraw(self, announcement: Announcement[Item, Result], count: int) -> None:
        count = min(count, announcement.left)  # nothing is left of a request that has failed meanwhile
        announcement.left -= count
        self._announced -= count
        self._changed.set()

    async def _lane(self) -> None:
        while True:
            async with self._gathering:  # one lane at a time: two would divide what one could take
                batch = await self._gather()
            self._free -= 1
            try:
                await self._compute(batch)
            finally:
                self._free += 1

    async def _gather(self) -> list[tuple[str, _Waiting[Item, Result]]]:
        """The next batch with its callers, as soon as it is full or waiting for more items is not worth while."""
        while True:
            self._changed.clear()
            patience = self._patience()
            if patience <= 0.0 and (batch := self._next_batch()):
                return batch
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience if patience > 0.0 and self._waiting else None)

    def _patience(self) -> float:
        """Seconds that the oldest item still waits for others."""
        if not self._waiting or not self._announced or len(self._waiting) >= self._limits.max_batch:
            return 0.0
        oldest = min(waiting.since for waiting in self._waiting.firsts())  # fewer than `max_batch`
        return oldest + self._limits.max_wait - time.monotonic()

    def _next_batch(self) -> list[tuple[str, _Waiting[Item, Result]]]:
        candidates: list[tuple[str, _Waiting[Item, Result]]] = []
        now = time.monotonic()
        while len(candidates) < self._limits.max_batch and (taken := self._waiting.take()):
            _, waiting = taken
            if waiting.future.done():  # its caller has gone
                continue
            if waiting.until < now:
                self.late += 1
                waiting.future.set_exception(
                    Unavailable("The image has waited for too long. Try again.", retry_after=1)
                )
            else:
                candidates.append(taken)
        most = self._portion([waiting.item for _, waiting in candidates], self._free) if candidates else 0
        self._waiting.put_back(candidates[most:])
        return candidates[:most]

    def _timed(self, batch: Sequence[_Waiting[Item, Result]]) -> Sequence[Result]:
        """Compute a batch on a thread of the device, and measure the time without the wait for that thread."""
        started = time.perf_counter()
        try:
            trace = next((waiting.trace for waiting in batch if waiting.trace), None)
            with (
                log.caused_by(cause for waiting in batch for cause in waiting.causes),
                tracing.span("batch", {"oubli.images": len(batch)}, parent=trace),
            ):
                return self._run([waiting.item for waiting in batch])
        finally:
            self._observed(len(batch), time.perf_counter() - started)

    async def _compute(self, batch: Sequence[tuple[str, _Waiting[Item, Result]]]) -> None:
        loop, items = asyncio.get_running_loop(), [waiting for _, waiting in batch]
        try:
            results = await loop.run_in_executor(self._executor, self._timed, items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except asyncio.CancelledError:  # `stop`: items being computed are refused like waiting ones
            self._waiting.put_back(batch)
            raise
        except Exception as error:
            for waiting in items:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, result in zip(items, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

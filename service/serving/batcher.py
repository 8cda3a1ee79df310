"""Dynamic batching: whatever has gathered while the device was busy is computed next, together.

Knows nothing of models: it gathers items, calls `run` on the device's threads, and hands results back. Promises: at
most `max_batch` items a call, and as few as `portion` says; at most `max_queue` announced or waiting, beyond which
callers are told to come back, and somewhat more for who has nothing else under way (`expect`); nobody waits for company
longer than `max_wait`, nor at all while nobody is announced; an item that has waited for `deadline`, here and before,
is told so and not computed; items whose caller has gone are dropped; an exception reaches every caller of its batch and
the loop lives on; idle costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from service import log, tracing
from service.errors import Busy, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """Of a batcher; times in seconds.

    max_batch  items in one call of `run`.
    max_queue  items announced or waiting.
    lanes      calls of `run` at once.
    max_wait   for company, while somebody is announced.
    deadline   for each, from when its wait began (`Announcement.submit`).
    """

    max_batch: int
    max_queue: int
    lanes: int = 1
    max_wait: float = 0.0
    deadline: float = float("inf")


class _Waiting(NamedTuple, Generic[Item, Result]):
    """An item, where its result goes, since when it waits and until when, and the requests and the trace it is of."""

    item: Item
    future: asyncio.Future[Result]
    since: float
    until: float
    causes: tuple[str, ...]
    trace: Mapping[str, str]


class Announcement(Generic[Item, Result]):
    """Items that are on their way: the queue has places for them, and a batch may wait a moment for them."""

    def __init__(self, batcher: Batcher[Item, Result], count: int) -> None:
        self._batcher = batcher
        self.left = count

    async def submit(self, items: Sequence[Item], *, since: float | None = None) -> list[Result]:
        """The results of these items, in order. Raises Unavailable if they waited for too long.

        since  by `time.monotonic`, when that wait began; now, unless it was before.
        """
        return await self._batcher.take(self, items, time.monotonic() if since is None else since)


class Batcher(Generic[Item, Result]):
    """Gathers items of many callers into batches for one device."""

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
        self._portion = portion  # how many of these items, one at least, a lane takes when so many lanes are free
        self._free = limits.lanes
        self._limits = limits
        self._observed = observed  # told of every batch: its items, and the seconds that it took
        self._executor = executor
        self.refused = 0  # items that did not fit the queue
        self.late = 0  # items that waited for too long
        self._announced = 0
        self._requests: Counter[str] = Counter()  # under way, by caller
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._gathering = asyncio.Lock()
        self._lanes: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to answer; call from the event loop."""
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(self._limits.lanes)]

    async def stop(self) -> None:
        """Answer no more; callers still waiting are told so."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(Unavailable("The service is shutting down."))

    @property
    def depth(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def max_queue(self) -> int:
        """How many may."""
        return self._limits.max_queue

    @contextmanager
    def expect(self, count: int, *, caller: str = "") -> Iterator[Announcement[Item, Result]]:
        """Announce items that are being prepared. Raises Busy if they do not fit the queue, all or none.

        caller  who has other requests under way or none; for one with none the queue is a quarter longer.
        """
        most, held = self._limits.max_queue, self._announced + len(self._waiting)
        if held and not self._requests[caller]:  # else whoever keeps it full would have others refused
            most += most // 4
        if held + count > most:
            self.refused += count
            raise Busy(f"{held} images are waiting already. Try again in a moment.")
        announcement = Announcement(self, count)
        self._announced += count
        self._requests[caller] += 1
        try:
            yield announcement
        finally:
            self._requests[caller] -= 1
            self._requests += Counter()  # forgets zeros
            self._withdraw(announcement, announcement.left)

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Announce items that are ready, and their results."""
        with self.expect(len(items)) as announcement:
            return await announcement.submit(items)

    async def take(self, announcement: Announcement[Item, Result], items: Sequence[Item], since: float) -> list[Result]:
        """Items of an announcement into the queue, and their results out of it."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        of = (now, since + self._limits.deadline, log.causes(), tracing.headers())
        self._waiting.extend(_Waiting(item, future, *of) for item, future in zip(items, futures, strict=True))
        self._withdraw(announcement, len(items))
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()  # of no effect on those that are done

    def _withdraw(self, announcement: Announcement[Item, Result], count: int) -> None:
        count = min(count, announcement.left)  # of a request that has failed meanwhile, nothing is left
        announcement.left -= count
        self._announced -= count
        self._changed.set()

    async def _lane(self) -> None:
        while True:
            async with self._gathering:  # one lane at a time: two would share what one could take
                batch = await self._gather()
            self._free -= 1
            try:
                await self._compute(batch)
            finally:
                self._free += 1

    async def _gather(self) -> list[_Waiting[Item, Result]]:
        """The next batch, as soon as it is full or waiting for more is not worth while."""
        while True:
            self._changed.clear()
            patience = self._patience()
            if patience <= 0.0 and (batch := self._next_batch()):
                return batch
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience if patience > 0.0 and self._waiting else None)

    def _patience(self) -> float:
        """Seconds to wait for company."""
        if not self._waiting or not self._announced or len(self._waiting) >= self._limits.max_batch:
            return 0.0
        return self._waiting[0].since + self._limits.max_wait - time.monotonic()

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        now = time.monotonic()
        candidates = [waiting.item for waiting in islice(self._waiting, self._limits.max_batch)]
        most = self._portion(candidates, self._free) if candidates else 0
        while self._waiting and len(batch) < most:
            waiting = self._waiting.popleft()
            if waiting.future.done():  # its caller has gone
                continue
            if waiting.until < now:
                self.late += 1
                waiting.future.set_exception(
                    Unavailable("The image has waited for too long. Try again.", retry_after=1)
                )
            else:
                batch.append(waiting)
        return batch

    def _timed(self, batch: Sequence[_Waiting[Item, Result]]) -> Sequence[Result]:
        """On a thread of the device: what waits for it is no part of the time."""
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

    async def _compute(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._timed, batch)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:  # `stop`: what is being computed is answered like what waits
            self._waiting.extendleft(reversed(batch))
            raise
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)

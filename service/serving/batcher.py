"""Dynamic batching: whatever has gathered while the device was busy is computed next, together.

Knows nothing of models: it gathers items, calls `run` on one thread, and hands results back. Promises: at most
`max_batch` items a call; at most `max_queue` waiting, beyond which callers are told to come back; items whose caller
has gone are dropped; an exception reaches every caller of its batch and the loop lives on; idle costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Generic, NamedTuple, TypeVar

from service import log, tracing
from service.errors import Busy, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    """An item, where its result goes, and the requests and the trace that it is of."""

    item: Item
    future: asyncio.Future[Result]
    causes: tuple[str, ...]
    trace: Mapping[str, str]


class Batcher(Generic[Item, Result]):
    """Gathers items of many callers into batches for one device."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        executor: Executor,
        max_batch: int,
        max_queue: int,
        observed: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._observed = observed  # told of every batch: its items, and the seconds that it took
        self._executor = executor
        self._max_batch = max_batch
        self.max_queue = max_queue
        self.refused = 0  # items that did not fit the queue
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer; call from the event loop."""
        self._task = asyncio.create_task(self._loop())

    async def stop(self) -> None:
        """Answer no more; callers still waiting are told so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(Unavailable("The service is shutting down."))

    @property
    def depth(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """The results of these items, in order. Raises Busy if they do not fit the queue, all or none."""
        if len(self._waiting) + len(items) > self.max_queue:
            self.refused += len(items)
            raise Busy(f"{len(self._waiting)} images are waiting already. Try again in a moment.")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        of = (log.causes(), tracing.headers())
        self._waiting.extend(_Waiting(item, future, *of) for item, future in zip(items, futures, strict=True))
        self._arrived.set()
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()  # of no effect on those that are done

    async def _loop(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            await self._compute(batch)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.future.done():  # its caller has gone
                batch.append(waiting)
        return batch

    def _timed(self, batch: Sequence[_Waiting[Item, Result]]) -> Sequence[Result]:
        """On the device's thread: what waits for it is no part of the time."""
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

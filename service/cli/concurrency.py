"""A few requests under way at once, their results in order: the service computes one while the next is being sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, TypeVar

import typer

CHUNK = 64  # images in a request
CHUNK_BYTES = 100_000_000  # ... or fewer, if they are large
InFlightOption = Annotated[int, typer.Option("--in-flight", help="Requests under way at once.", min=1, max=32)]
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_flight(
    work: Callable[[Item], Result], items: Iterable[Item], *, most: int, give_up: Callable[[], None]
) -> Iterator[Result]:
    """`work` of each item, on as many threads as may be under way; items are taken as room comes free.

    Raises what the first failing one raised, once those under way have ended; what had not begun never does.

    give_up  called when the caller waits no more for those under way.
    """
    with ThreadPoolExecutor(most, thread_name_prefix="flight") as pool:
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(under_way) == most:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(work, item))
            while under_way:
                yield under_way.popleft().result()
        except BaseException:  # an interrupt, above all
            give_up()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def chunks(items: Iterable[Item], *, size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Consecutive items, at most CHUNK and CHUNK_BYTES together; a larger item goes alone."""
    chunk: list[Item] = []
    weight = 0
    for item in items:
        if chunk and (len(chunk) == CHUNK or weight + size(item) > CHUNK_BYTES):
            yield chunk
            chunk, weight = [], 0
        chunk.append(item)
        weight += size(item)
    if chunk:
        yield chunk

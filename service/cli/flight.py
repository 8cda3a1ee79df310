"""A few requests under way at once, their results in order: the service computes one while the next is being sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_flight(
    work: Callable[[Item], Result], items: Iterable[Item], *, most: int, give_up: Callable[[], None]
) -> Iterator[Result]:
    """`work` of each item, on as many threads as may be under way; items are taken as room comes free.

    Raises what the first failing one raised, once those under way have ended; what had not begun never does.

    give_up  tells those under way that nobody waits for them any more.
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

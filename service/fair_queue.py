"""A queue of several callers' items in which callers take turns, and one caller's items keep their order.

Promises: between two items of one caller stands at most one of each other caller, so 256 items of one caller do not
stand before another caller's one. Every method takes constant time for each item that it adds, takes or puts back.
Not for several threads at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Items by caller; none is in the queue twice."""

    def __init__(self) -> None:
        # The caller whose turn it is comes first; so does its next item. Of an OrderedDict the first is found at once,
        # however many before it were deleted; of a dict it is not.
        self._callers: OrderedDict[str, OrderedDict[Item, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, caller: str, item: Item) -> None:
        """To the end of the caller's items."""
        self._callers.setdefault(caller, OrderedDict())[item] = None
        self._count += 1

    def take(self, may: Callable[[str], bool] = lambda caller: True) -> tuple[str, Item] | None:
        """The next caller that may, and its next item; that caller's next turn comes after all others'. None: none."""
        caller = next(filter(may, self._callers), None)
        if caller is None:
            return None
        items = self._callers[caller]
        item, _ = items.popitem(last=False)
        self._count -= 1
        if items:
            self._callers.move_to_end(caller)
        else:
            del self._callers[caller]
        return caller, item

    def put_back(self, taken: Iterable[tuple[str, Item]]) -> None:
        """Items that were taken last, in the order in which they were: as if they had not been."""
        for caller, item in reversed(list(taken)):
            items = self._callers.setdefault(caller, OrderedDict())
            items[item] = None
            items.move_to_end(item, last=False)
            self._callers.move_to_end(caller, last=False)
            self._count += 1

    def discard(self, caller: str, item: Item) -> None:
        """Without this item, if it is in the queue."""
        items = self._callers.get(caller, OrderedDict())
        if item in items:
            del items[item]
            self._count -= 1
            if not items:
                del self._callers[caller]

    def firsts(self) -> Iterator[Item]:
        """The next item of each caller, the oldest of its items."""
        return (next(iter(items)) for items in self._callers.values())

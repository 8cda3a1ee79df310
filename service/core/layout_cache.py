"""The restored layout that a process keeps, so that the layout's file is read once."""

from __future__ import annotations

from models.partition import Layout
from service.registry.records import LayoutInForce


class LayoutCache:
    """The layout that was restored last, and the sample that blocked the last move to another layout."""

    def __init__(self) -> None:
        self.blocked_by: str | None = None
        self._cached: tuple[LayoutInForce, Layout] | None = None

    def get(self, record: LayoutInForce) -> Layout | None:
        """The layout of that record, if it is the cached one."""
        return self._cached[1] if self._cached is not None and self._cached[0] == record else None

    def put(self, record: LayoutInForce, layout: Layout) -> None:
        """Cache this layout in place of the previous one."""
        self._cached = (record, layout)

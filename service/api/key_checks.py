"""API keys of requests that arrive together, looked up together.

The registry is asked at every request, never a cache, so that a revoked key is refused from then on. One look-up runs
at a time; whoever comes meanwhile shares the next one, which begins after they came. Under load that is one statement
and one change of threads for many requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from service.core import access
from service.registry.engine import Registry
from service.registry.records import ApiKey


class KeyChecks:
    """Checks of keys, for one event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._asking = asyncio.Lock()
        self._presented: set[str] = set()
        self._next: asyncio.Task[Mapping[str, ApiKey]] | None = None

    async def check(self, secret: str | None, scopes: Sequence[str]) -> None:
        """Raise Unauthorized or Forbidden unless the key is known and has every scope, or `admin`."""
        access.admit(secret, await self._known(secret) if secret else {}, scopes)

    async def _known(self, secret: str) -> Mapping[str, ApiKey]:
        self._presented.add(secret)
        if self._next is None:
            self._next = asyncio.create_task(self._look_up())
        return await asyncio.shield(self._next)  # others wait for it too: it outlives a caller that goes

    async def _look_up(self) -> Mapping[str, ApiKey]:
        async with self._asking:
            presented, self._presented, self._next = self._presented, set(), None
            return await asyncio.to_thread(access.look_up, self._registry, presented)

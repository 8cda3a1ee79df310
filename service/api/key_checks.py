"""API keys of requests that arrive together, looked up together.

The registry is asked at every request, never a cache, so that a revoked key is refused from then on. One look-up runs
at a time; requests that arrive meanwhile share the next one, which begins after they arrived. Under load that is one
statement and one change of threads for many requests.

When a key was last used is written beside the requests, by one task at a time, and for each key about once a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from service.clock import Clock, system_clock
from service.core import access
from service.errors import Forbidden, Unauthorized
from service.registry.engine import Registry
from service.registry.records import ApiKey


class KeyChecks:
    """Checks of keys, for one event loop.

    refused  told, in one word, why a key was not accepted.
    """

    def __init__(
        self, registry: Registry, *, clock: Clock = system_clock, refused: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._refused = refused
        self._asking = asyncio.Lock()
        self._presented: set[str] = set()
        self._next: asyncio.Task[Mapping[str, ApiKey]] | None = None
        self._used: set[str] = set()  # ids of keys whose use is news
        self._noting: asyncio.Task[None] | None = None

    async def check(self, secret: str | None, scopes: Sequence[str]) -> ApiKey:
        """The key. Raises Unauthorized or Forbidden unless it is valid and has every scope, or `admin`."""
        known = await self._known(secret) if secret else {}
        now = self._clock()
        try:
            key = access.admit(secret, known, scopes, now=now)
        except (Unauthorized, Forbidden) as error:
            self._refused(reason_of(error))
            raise
        if access.use_is_news(key, now):
            self._note(key.id)
        return key

    async def finish(self) -> None:
        """Wait until every use of a key has been recorded."""
        if self._noting is not None:
            await self._noting

    async def _known(self, secret: str) -> Mapping[str, ApiKey]:
        self._presented.add(secret)
        if self._next is None:
            self._next = asyncio.create_task(self._look_up())
        return await asyncio.shield(self._next)  # others wait for it too: it outlives a caller that goes

    async def _look_up(self) -> Mapping[str, ApiKey]:
        async with self._asking:
            presented, self._presented, self._next = self._presented, set(), None
            return await asyncio.to_thread(access.look_up, self._registry, presented)

    def _note(self, key_id: str) -> None:
        self._used.add(key_id)
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note_all())

    async def _note_all(self) -> None:
        """In a thread: a registry that is busy holds up this, and no request."""
        while self._used:
            used, self._used = self._used, set()
            await asyncio.to_thread(access.note_use, self._registry, used, now=self._clock())


def reason_of(error: Unauthorized | Forbidden) -> str:
    """In one word, for a metric: `missing`, `unknown`, `expired`, or `scope`."""
    return error.reason if isinstance(error, Unauthorized) else "scope"

"""Keys of requests that arrive together: few look-ups, and none that began before its request came."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from service.api.key_checks import KeyChecks
from service.clock import system_clock
from service.core import access
from service.errors import Forbidden, Unauthorized, Unavailable
from service.registry.engine import Registry
from service.registry.records import ApiKey

MINUTE = timedelta(minutes=1)


class Watched:
    """Look-ups wait at a gate, may fail once, and are remembered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.asked: list[set[str]] = []
        self.failure: Exception | None = None
        self._really = access.look_up
        monkeypatch.setattr(access, "look_up", self)

    def __call__(self, registry: Registry, presented: Iterable[str]) -> Mapping[str, ApiKey]:
        found = self._really(registry, presented)
        self.asked.append(set(presented))
        assert self.gate.wait(10)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return found

    async def is_asking(self, times: int = 1) -> None:
        while len(self.asked) < times:
            await asyncio.sleep(0.001)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def key(registry: Registry, *scopes: str) -> tuple[str, str]:
    made, secret = access.create_key(registry, system_clock, scopes=scopes)
    return made.id, secret


async def begun(*checks: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(check) for check in checks]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_keys_that_come_during_a_look_up_share_the_next_one_and_each_is_judged_alone(
    registry: Registry, watched: Watched
) -> None:
    (reader_id, reader), (_, eraser) = key(registry, "read"), key(registry, "erase")

    async def scene() -> None:
        checks = KeyChecks(registry)
        tasks = await begun(checks.check(reader, ["read"]))
        await watched.is_asking()
        tasks += await begun(
            *(checks.check(reader, ["read"]) for _ in range(5)),
            checks.check(eraser, ["read"]),
            checks.check("oubli_wrong", ["read"]),
            checks.check(None, ["read"]),
        )
        watched.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one.id for one in results[:6] if isinstance(one, ApiKey)] == [reader_id] * 6
        assert [type(result) for result in results[6:]] == [Forbidden, Unauthorized, Unauthorized]
        assert watched.asked == [{reader}, {reader, eraser, "oubli_wrong"}]

    in_loop(scene())


def test_a_key_revoked_during_a_look_up_is_refused_to_whoever_comes_after_that(
    registry: Registry, watched: Watched
) -> None:
    key_id, secret = key(registry, "read")

    async def scene() -> None:
        checks = KeyChecks(registry)
        earlier = await begun(checks.check(secret, ["read"]))
        await watched.is_asking()  # its answer has been read, and is on its way
        await asyncio.to_thread(access.revoke_key, registry, system_clock, key_id)
        later = await begun(checks.check(secret, ["read"]))
        watched.gate.set()
        results = await asyncio.gather(*earlier, *later, return_exceptions=True)
        assert isinstance(results[0], ApiKey)
        assert isinstance(results[1], Unauthorized)

    in_loop(scene())


def test_a_look_up_that_fails_is_an_error_to_those_who_share_it_and_the_next_one_is_made(
    registry: Registry, watched: Watched
) -> None:
    _, secret = key(registry, "read")

    async def scene() -> None:
        checks = KeyChecks(registry)
        first = await begun(checks.check(secret, ["read"]), checks.check(secret, ["read"]))
        await watched.is_asking()
        second = await begun(checks.check(secret, ["read"]))
        watched.failure = Unavailable("The registry is away.")
        watched.gate.set()
        results = await asyncio.gather(*first, *second, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [Unavailable, Unavailable]
        assert isinstance(results[2], ApiKey)

    in_loop(scene())


def test_a_caller_who_goes_takes_nobodys_answer_along(registry: Registry, watched: Watched) -> None:
    _, secret = key(registry, "read")

    async def scene() -> None:
        checks = KeyChecks(registry)
        gone, other = await begun(checks.check(secret, ["read"]), checks.check(secret, ["read"]))
        await watched.is_asking()
        gone.cancel()
        watched.gate.set()
        await other
        with pytest.raises(asyncio.CancelledError):
            await gone

    in_loop(scene())


# ------------------------------------------------------------------------------------------------------- last used


class Writes:
    """Notes of use are counted, and may be held up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[set[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._really: Callable[..., None] = access.note_use
        monkeypatch.setattr(access, "note_use", self)

    def __call__(self, registry: Registry, key_ids: Iterable[str], **more: Any) -> None:
        self.begun.append(set(key_ids))
        assert self.gate.wait(10)
        self._really(registry, key_ids, **more)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def test_many_uses_within_a_minute_are_one_write_for_each_key(registry: Registry, writes: Writes) -> None:
    (first, reader), (second, eraser) = key(registry, "read"), key(registry, "erase")
    now = system_clock()

    async def scene() -> None:
        checks = KeyChecks(registry, clock=lambda: now)
        for _ in range(20):
            await checks.check(reader, ["read"])
            await checks.finish()
        await checks.check(eraser, ["erase"])
        await checks.finish()

    in_loop(scene())
    assert writes.begun == [{first}, {second}]
    assert [known.last_used_at for known in access.list_keys(registry)] == [now, now]

    async def later() -> None:
        checks = KeyChecks(registry, clock=lambda: now + MINUTE)
        await checks.check(reader, ["read"])
        await checks.finish()

    in_loop(later())
    assert [known.last_used_at for known in access.list_keys(registry)] == [now + MINUTE, now]


def test_requests_do_not_wait_for_the_write_nor_begin_another_one_beside_it(registry: Registry, writes: Writes) -> None:
    (first, reader), (second, eraser) = key(registry, "read"), key(registry, "erase")
    writes.gate.clear()

    async def scene() -> None:
        checks = KeyChecks(registry)
        for _ in range(5):
            await checks.check(reader, ["read"])
            await checks.check(eraser, ["erase"])
        while not writes.begun:
            await asyncio.sleep(0.001)
        assert writes.begun == [{first}]
        writes.gate.set()
        await checks.finish()

    in_loop(scene())
    assert writes.begun == [{first}, {first, second}]


def test_a_key_that_is_refused_is_not_noted_as_used_and_the_reason_is_told(registry: Registry, writes: Writes) -> None:
    _, reader = key(registry, "read")
    old, expired = access.create_key(registry, system_clock, scopes=["read"])
    access.rotate_key(registry, system_clock, old.id, overlap=timedelta())
    told: list[str] = []

    async def scene() -> None:
        checks = KeyChecks(registry, refused=told.append)
        for secret, scope in ((None, "read"), ("oubli_wrong", "read"), (expired, "read"), (reader, "erase")):
            with pytest.raises((Unauthorized, Forbidden)):
                await checks.check(secret, [scope])
        await checks.finish()

    in_loop(scene())
    assert told == ["missing", "unknown", "expired", "scope"]
    assert writes.begun == []

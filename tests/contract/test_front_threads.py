"""Uploads, however many, leave erasures and look-ups their threads, and one client's leave another's theirs.

Readiness tells when the threads of all other requests are taken.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.api.threads import Threads
from service.errors import Busy, Unavailable
from service.serving import ingest
from tests.front import Front, picture, served
from tests.integration.harness import until

POOL = 40  # threads that plain endpoints share
THREADS, WAITING = POOL + 1, 3  # one key's uploads would take the whole pool, were it theirs
FRONT = {"intake": {"threads": THREADS, "max_waiting": WAITING}, "serving": {"deadline_seconds": 600.0}}


class Gate:
    """Calls wait at it."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.waiting = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with self._lock:
            self.waiting += 1
        assert self._open.wait(60)
        return self._real(*arguments, **named)

    def open(self) -> None:
        self._open.set()


def test_uploads_leave_the_rest_of_the_service_its_threads(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(ingest.take_in)
    monkeypatch.setattr(ingest, "take_in", gate)
    data = picture()

    def contribute(number: int, key: str | None = None) -> int:
        with front.client(key) as client:
            words = {"label": "a", "owner": f"owner-{number}"}
            if number % 2:
                return client.post("/samples", files={"image": ("a.png", data)}, data=words).status_code
            return client.post(
                "/samples", content=data, params=words, headers={"Content-Type": "image/png"}
            ).status_code

    uploads = THREADS + WAITING + 5
    with ThreadPoolExecutor(uploads) as crowd:
        try:
            sent = [crowd.submit(contribute, number) for number in range(uploads)]
            refused = uploads - THREADS - WAITING
            until(lambda: sum(one.done() for one in sent) == refused, what="those who find no room are told so")
            assert {one.result() for one in sent if one.done()} == {429}
            until(lambda: gate.waiting == THREADS - 1, what="as many as one key may have are taken in")
            other = crowd.submit(contribute, uploads, front.make_key("samples"))  # its only one finds room
            until(lambda: gate.waiting == THREADS, what="it does not wait behind the others")
            with front.client() as client:
                assert client.delete("/owners/nobody").status_code == 404
                assert client.get("/status").status_code == 200
                assert client.get("/samples").status_code == 200
                assert client.get("/health/ready").json()["threads"] is True
        finally:
            gate.open()
        assert [one.result() for one in sent].count(201) == THREADS + WAITING
        assert other.result() == 201


def test_readiness_tells_when_all_threads_are_taken(front: Front) -> None:
    gate = Gate(dict)
    front.app.add_api_route("/slow", lambda: gate())

    def look() -> int:
        with front.client() as client:
            return client.get("/slow").status_code

    with ThreadPoolExecutor(POOL) as crowd, front.stranger() as stranger:
        try:
            sent = [crowd.submit(look) for _ in range(POOL)]
            until(lambda: gate.waiting == POOL, what="all threads are taken")
            told = stranger.get("/health/ready")
            assert told.status_code == 503
            assert (told.json()["threads"], told.json()["serving"], told.json()["migrated"]) == (False, False, True)
            assert stranger.get("/health/live").status_code == 200
        finally:
            gate.open()
        assert {one.result() for one in sent} == {200}
        again = stranger.get("/health/ready").json()
        assert (again["threads"], again["serving"]) == (True, True)


async def in_line(threads: Threads, count: int) -> None:
    while threads._inside.total() < count:
        await asyncio.sleep(0.001)


def test_a_line_is_as_long_as_it_is_said_to_be() -> None:
    async def scene() -> None:
        threads, gate = Threads(1, waiting=1), threading.Event()
        first, second = (asyncio.create_task(threads.run(lambda: gate.wait(60))) for _ in range(2))
        await in_line(threads, 2)
        with pytest.raises(Busy):
            await threads.run(lambda: True)
        gate.set()
        assert await asyncio.gather(first, second) == [True, True]
        assert await threads.run(lambda: "room again") == "room again"

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_whoever_keeps_the_line_full_does_not_have_others_refused() -> None:
    async def scene() -> None:
        threads, gate = Threads(2, waiting=2), threading.Event()
        busy = [asyncio.create_task(threads.run(lambda: gate.wait(60), caller="ada")) for _ in range(4)]
        await in_line(threads, 4)
        with pytest.raises(Busy):
            await threads.run(lambda: True, caller="ada")
        other = asyncio.create_task(threads.run(lambda: gate.wait(60) and "bela's", caller="bela"))
        await in_line(threads, 5)
        for caller in ("bela", "carl"):  # it is a quarter longer, not endless
            with pytest.raises(Busy):
                await threads.run(lambda: True, caller=caller)
        gate.set()
        assert await asyncio.gather(*busy, other) == [True] * 4 + ["bela's"]
        assert not threads._inside

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_callers_take_turns_and_none_has_all_threads() -> None:
    async def scene() -> None:
        threads, gate, begun = Threads(3, waiting=20), threading.Semaphore(0), []

        def upload(name: str) -> str:
            begun.append(name)
            assert gate.acquire(timeout=60)
            return name

        def send(name: str) -> asyncio.Task[str]:
            return asyncio.create_task(threads.run(lambda: upload(name), caller=name[0]))

        sent = [send(f"a{number}") for number in range(6)]
        await in_line(threads, 6)
        await asyncio.sleep(0.05)
        assert sorted(begun) == ["a0", "a1"]  # one thread is left to others
        sent += [send("b0")]
        while len(begun) < 3:
            await asyncio.sleep(0.001)
        sent += [send("b1"), send("c0")]
        await in_line(threads, 9)
        for ended in range(1, 10):  # one after the other: threads that begin at once say so in any order
            gate.release()
            while sum(task.done() for task in sent) < ended or len(begun) < ended + threads._running.total():
                await asyncio.sleep(0.001)
        assert await asyncio.gather(*sent) == ["a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1", "c0"]
        assert begun[2] == "b0"
        assert max(begun.index("b1"), begun.index("c0")) < begun.index("a5")
        assert (threads._running, threads._inside, len(threads._line)) == ({}, {}, 0)

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_who_goes_while_waiting_is_never_begun_and_leaves_its_place() -> None:
    async def scene() -> None:
        threads, gate, begun = Threads(1, waiting=1), threading.Event(), []
        first = asyncio.create_task(threads.run(lambda: gate.wait(60)))
        await in_line(threads, 1)
        for _ in range(3):
            gone = asyncio.create_task(threads.run(lambda: begun.append("gone")))
            await in_line(threads, 2)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        gate.set()
        assert await first
        assert await threads.run(lambda: "room again") == "room again"
        assert not begun

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_who_waited_too_long_is_told_so_and_never_begun() -> None:
    async def scene() -> None:
        threads, gate, begun = Threads(1, waiting=1, seconds=0.05), threading.Event(), []
        first = asyncio.create_task(threads.run(lambda: gate.wait(60)))
        await in_line(threads, 1)
        with pytest.raises(Unavailable, match="waited for too long") as late:
            await threads.run(lambda: begun.append("late"))
        assert late.value.retry_after == 1
        gate.set()
        assert await first  # what was begun has time
        assert not begun
        assert await threads.run(lambda: "room again") == "room again"

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_an_upload_in_line_is_refused_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(ingest.take_in)
    monkeypatch.setattr(ingest, "take_in", gate)
    limits = {"intake": {"threads": 1, "max_waiting": 2}, "serving": {"deadline_seconds": 0.5}}
    with served(tmp_path, **limits) as front, ThreadPoolExecutor(1) as crowd, front.client() as client:
        try:
            sent = {"files": {"image": ("a.png", picture())}, "data": {"label": "a", "owner": "ada"}}
            first = crowd.submit(client.post, "/samples", **sent)
            until(lambda: gate.waiting == 1, what="the only thread is taken")
            late = client.post("/samples", **sent)
            assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
            assert "waited for too long" in late.json()["detail"]
        finally:
            gate.open()
        assert first.result().status_code == 201
        assert client.get("/status").json()["samples"] == 1


def test_what_a_thread_raises_is_raised() -> None:
    async def scene() -> None:
        threads = Threads(1, waiting=0)
        with pytest.raises(KeyError):
            await threads.run(lambda: {}["nothing"])
        assert await threads.run(lambda: 1) == 1

    asyncio.run(scene())

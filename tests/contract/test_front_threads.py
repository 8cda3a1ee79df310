"""Uploads, however many, leave erasures and look-ups their threads; and readiness tells when those are taken."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.api.threads import Threads
from service.errors import Busy
from service.serving import ingest
from tests.front import Front, picture
from tests.integration.harness import until

THREADS, WAITING = 2, 3
FRONT = {"intake": {"threads": THREADS, "max_waiting": WAITING}}
POOL = 40  # threads that plain endpoints share


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

    uploads = POOL + 5
    with ThreadPoolExecutor(uploads) as crowd:
        try:
            sent = [crowd.submit(contribute, number) for number in range(uploads)]
            refused = uploads - THREADS - WAITING
            until(lambda: sum(one.done() for one in sent) == refused, what="those who find no room are told so")
            assert {one.result() for one in sent if one.done()} == {429}
            until(lambda: gate.waiting == THREADS, what="those who found room have been decoded")
            other = crowd.submit(contribute, uploads, front.make_key("samples"))  # its only one finds room
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


def test_a_line_is_as_long_as_it_is_said_to_be() -> None:
    async def scene() -> None:
        threads, gate = Threads(1, waiting=1), threading.Event()
        first, second = (asyncio.create_task(threads.run(lambda: gate.wait(60))) for _ in range(2))
        while threads._inside.total() < 2:
            await asyncio.sleep(0.001)
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
        while threads._inside.total() < 4:
            await asyncio.sleep(0.001)
        with pytest.raises(Busy):
            await threads.run(lambda: True, caller="ada")
        other = asyncio.create_task(threads.run(lambda: "bela's", caller="bela"))
        while threads._inside.total() < 5:
            await asyncio.sleep(0.001)
        for caller in ("bela", "carl"):  # it is a quarter longer, not endless
            with pytest.raises(Busy):
                await threads.run(lambda: True, caller=caller)
        gate.set()
        assert await asyncio.gather(*busy, other) == [True] * 4 + ["bela's"]
        assert not threads._inside

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_what_a_thread_raises_is_raised() -> None:
    async def scene() -> None:
        threads = Threads(1, waiting=0)
        with pytest.raises(KeyError):
            await threads.run(lambda: {}["nothing"])
        assert await threads.run(lambda: 1) == 1

    asyncio.run(scene())

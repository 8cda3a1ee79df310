"""A worker that is alive and hears nothing is started anew; one whose broker is dead is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import TINY, Service, digit_pictures, until
from tests.integration.redis_server import Proxy, RedisServer

pytestmark = [pytest.mark.thorough, pytest.mark.redis]

ENV = {
    **TINY,
    "OUBLI_WORKER__RECONCILE_SECONDS": "1",
    "OUBLI_WORKER__HEARTBEAT_SECONDS": "1",
    "OUBLI_WORKER__DEAF_SECONDS": "8",
}
STALLED = "the broker takes notifications, and none arrives here"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    try:
        yield server
    finally:
        server.close()


def test_a_stalled_worker_starts_anew_and_one_without_a_broker_waits(redis: RedisServer, tmp_path: Path) -> None:
    proxy = Proxy(redis.port)
    pictures = digit_pictures(40)
    with Service(tmp_path / "data", env={**ENV, "OUBLI_BROKER_URL": proxy.url}) as service:
        service.start(ready=False)
        until(lambda: service.child("api") and live(service), what="an API")
        worker, beat = service.child("worker"), service.child("beat")
        until(lambda: "Cannot connect to" in service.log, what="a worker that looks for its broker")
        redis.start()  # started after they were: they have waited for it
        until(service.is_ready, what="a worker that has found its broker")
        service.contribute(pictures[:12], "ann")
        service.settle()
        until(lambda: service.status()["workers"][0]["claimed_at"], what="a heartbeat that tells")
        (status,) = service.status()["workers"]
        assert status["heard_at"]
        assert status["queues"] == ["deletions", "additions"]

        redis.kill()  # much longer than a stalled worker is given
        service.contribute(pictures[12:16], "ann")
        refused = service.log.count(STALLED)
        until(lambda: service.log.count("Cannot connect to") > 8, what="tries to connect")
        redis.start()
        service.settle()
        assert service.log.count(STALLED) == refused == 0
        assert (service.child("worker").pid, service.child("beat").pid) == (worker.pid, beat.pid)

        proxy.deaf = True
        service.contribute(pictures[16:24], "ann")
        until(lambda: STALLED in service.log, seconds=40, what="a worker that finds itself stalled")
        until(lambda: "worker ended (status 75)" in service.log, seconds=30, what="its end")
        proxy.deaf = False
        service.settle()
        assert service.child("worker").pid != worker.pid
        assert service.child("beat").pid == beat.pid
    proxy.close()


def live(service: Service) -> bool:
    from httpx import TransportError, get

    try:
        return get(f"{service.url}/health/live").status_code == 200
    except TransportError:
        return False

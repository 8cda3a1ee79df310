"""Redis dies, hangs, forgets and fills up: only retraining waits, and it goes on within seconds of Redis' return."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.integration.harness import TINY, Service, digit_pictures, until
from tests.integration.redis_server import RedisServer

pytestmark = [pytest.mark.thorough, pytest.mark.redis]

ENV = {**TINY, "OUBLI_WORKER__RECONCILE_SECONDS": "1", "OUBLI_WORKER__HEARTBEAT_SECONDS": "1"}
BACK = 25.0  # seconds until work goes on after Redis is back; measured: 1 to 8 on an idle machine


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    env = {**ENV, "OUBLI_BROKER_URL": redis.url}
    with Service(tmp_path_factory.mktemp("service"), env=env).start() as running_service:
        running_service.contribute(digit_pictures(12), "ann")
        running_service.settle()
        yield running_service


@pytest.fixture(autouse=True)
def same_processes(service: Service) -> Iterator[None]:
    """No fault of Redis may end a process of ours."""
    before = [service.child(role).pid for role in ("api", "worker", "beat")]
    yield
    assert [service.child(role).pid for role in ("api", "worker", "beat")] == before
    # Celery and its libraries say at length what a broker does to them; ours have words for it.
    assert not re.search(r"(ERROR|CRITICAL) +(service|workers)\.[^\n]*\nTraceback", service.log), service.log


def withdraw(service: Service) -> tuple[str, float]:
    """Erase a sample; the erasure's id, and the seconds that its answer took."""
    sample = service.pages("/samples", limit=1)[0]
    started = time.monotonic()
    answer = service.client.delete(f"/samples/{sample['id']}")
    assert answer.status_code == 202, answer.text
    return answer.json()["id"], time.monotonic() - started


def goes_on(service: Service) -> None:
    """What is new is trained, and soon."""
    started = time.monotonic()
    service.contribute([digit_pictures(300)[100 + int(time.monotonic() * 1000) % 200]], "bob")
    service.settle(seconds=BACK)
    print(f"went on after {time.monotonic() - started:.1f} s")


def test_a_deletion_waits_for_no_dead_redis_and_is_completed_when_it_is_back(
    service: Service, redis: RedisServer
) -> None:
    redis.kill()
    erasure, seconds = withdraw(service)
    time.sleep(3)  # some passes, and tries to connect
    redis.start()
    service.complete(erasure)
    goes_on(service)
    assert seconds < 1


def test_a_redis_that_hangs_for_half_a_minute(service: Service, redis: RedisServer) -> None:
    with redis.paused():
        erasure, seconds = withdraw(service)
        time.sleep(30)
    started = time.monotonic()
    service.complete(erasure)
    print(f"completed after {time.monotonic() - started:.1f} s")
    goes_on(service)
    assert seconds < 1


def test_a_redis_that_forgets_everything(service: Service, redis: RedisServer) -> None:
    with redis.client() as client:
        assert client.keys("_kombu.binding.*")
        client.flushall()
        goes_on(service)
        client.flushall()
        erasure, _ = withdraw(service)
        service.complete(erasure)


def test_messages_that_are_none_of_ours_are_dropped(service: Service, redis: RedisServer) -> None:
    with redis.client() as client:
        for queue in ("oubli.deletions", "oubli.additions"):
            for garbage in ("not json", "null", "[]", "{}", "1", '{"body": 1}', '{"properties": {}}', b"\xff\xfe"):
                client.lpush(queue, garbage)
        until(lambda: not client.llen("oubli.deletions") and not client.llen("oubli.additions"), what="they are gone")
    erasure, _ = withdraw(service)
    service.complete(erasure)
    goes_on(service)


def test_a_redis_that_is_full(service: Service, redis: RedisServer) -> None:
    worker = service.child("worker")
    worker.suspend()  # so that messages wait when the memory ends: to take one, Redis must note who has it
    erasure, _ = withdraw(service)
    with redis.client() as client:
        until(lambda: client.llen("oubli.deletions"), what="a message that waits")
    with redis.full():
        worker.resume()
        another, seconds = withdraw(service)
        time.sleep(4)
    service.complete(erasure)
    service.complete(another)
    goes_on(service)
    assert seconds < 1


def test_a_redis_that_evicts_whatever_it_likes(service: Service, redis: RedisServer) -> None:
    with redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
        for i in range(300):
            client.set(f"other {i}", "x" * 10_000)
        assert client.info("stats")["evicted_keys"] > 100
        erasure, seconds = withdraw(service)
        for i in range(300):
            client.set(f"more {i}", "x" * 10_000)
        service.complete(erasure)
        client.config_set("maxmemory", 0)
        client.flushall()
    goes_on(service)
    assert seconds < 1

"""The production shape: PostgreSQL and Redis, two API-side stories, and a Redis that goes away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.messaging.celery_app import TRAIN, make_celery, queue_name, redis_options
from service.messaging.queues import DELETIONS
from service.settings import Settings
from tests import servers
from tests.integration.harness import TINY, Picture, Service, assert_problem, upload
from tests.integration.redis_server import RedisServer, running

pytestmark = [pytest.mark.postgres, pytest.mark.redis]

FIRST, SECOND = "first-owner", "second-owner"


@contextmanager
def production(folder: Path, broker: str) -> Iterator[Service]:
    with servers.postgres() as server, servers.fresh_database(server) as database:
        env = {**TINY, "OUBLI_DATABASE_URL": database, "OUBLI_BROKER_URL": broker}
        with Service(folder, env=env).start() as service:
            yield service


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with production(tmp_path_factory.mktemp("production"), redis.url) as started:
        yield started


@pytest.mark.thorough
def test_a_message_that_cannot_be_acknowledged_does_not_deafen(tmp_path: Path) -> None:
    """Redis hangs while a worker ends what a bell asked for: one message may be in hand, and this one is no more."""
    with running(tmp_path / "redis") as server:
        app = make_celery(Settings(data_dir=tmp_path, broker_url=SecretStr(server.url)))
        app.conf.broker_transport_options = redis_options(socket_timeout=0.5, connect_timeout=0.5)
        with app.connection_for_read() as connection, connection.channel() as channel:
            queue = app.amqp.queues[queue_name(DELETIONS)].bind(channel)
            queue.declare()
            channel.basic_qos(0, 1, False)
            for _ in range(2):
                app.send_task(TRAIN, queue=queue_name(DELETIONS))
            first = queue.get()
            assert first is not None
            assert not channel.qos.can_consume()
            with server.paused(), pytest.raises(connection.connection_errors):
                first.ack()
            assert channel.qos.can_consume()
        app.close()


def test_the_whole_story(service: Service, pictures: list[Picture]) -> None:
    assert not (service.data / "registry.db").exists()
    samples = service.contribute(pictures[:30], [FIRST if i % 3 else SECOND for i in range(30)])
    clusters = service.settle()
    assert len(clusters) > 1
    assert all(cluster["state"] == "serving" for cluster in clusters)
    predicted = service.client.post("/predict", files=upload("image", pictures[:10]))
    assert predicted.status_code == 200, predicted.text
    assert len(predicted.json()["predictions"]) == 10
    erasure = service.client.delete(f"/owners/{SECOND}").json()
    assert erasure["samples"] == 10
    withdrawn = {touched["prompt_before"] for touched in erasure["clusters"]} - {None}
    assert withdrawn
    after = service.client.post("/predict", files=upload("image", pictures[:10]))
    if after.status_code == 200:
        assert not withdrawn & {prediction["prompt"] for prediction in after.json()["predictions"]}
    else:  # every cluster had samples of that owner, so for a moment nothing is served
        assert_problem(after, 503)
    service.complete(erasure["id"])
    assert sum(cluster["samples"] for cluster in service.settle()) == 20
    kept = {path.name.split(".")[0] for path in service.objects()}
    assert kept == {sample["id"] for sample in samples if sample["owner"] == FIRST}


@pytest.mark.thorough
def test_postgresql_is_spared_what_it_cannot_store(service: Service, pictures: list[Picture]) -> None:
    for path in ("/samples?owner=%00", "/samples?label=a%00b", "/samples?owner=%ED%A0%80"):
        answer = service.client.get(path)
        assert answer.status_code in (200, 422), answer.text
    for path in ("/owners/%00", "/owners/a%00b"):
        answer = service.client.delete(path)
        assert answer.status_code in (404, 422), answer.text
        assert_problem(answer, answer.status_code)
    answer = service.client.post("/erasures", json={"owner": "a\0"})
    assert answer.status_code in (404, 422), answer.text
    words = {"label": "a\0b", "owner": "c"}
    assert_problem(service.client.post("/samples", files=upload("image", pictures[:1]), data=words), 422)
    for query in ("cursor=AA", "cursor=MDA", "limit=0", "cursor=OTk5OTk5OTk5OTk5OTk5OTk5"):
        answer = service.client.get(f"/samples?{query}")
        assert answer.status_code in (200, 422), answer.text
    assert "Traceback" not in service.log


@pytest.mark.thorough
def test_forgetting_does_not_wait_for_redis(service: Service, redis: RedisServer, pictures: list[Picture]) -> None:
    samples = service.contribute(pictures[30:50], "third-owner")
    service.settle()
    redis.kill()
    try:
        seconds = []
        for sample in samples[:5]:
            started = time.monotonic()
            answer = service.client.delete(f"/samples/{sample['id']}")
            seconds.append(time.monotonic() - started)
            assert answer.status_code == 202, answer.text
            assert service.client.get(f"/samples/{sample['id']}").status_code == 404
        assert sorted(seconds)[2] < 1.0, seconds
        predicted = service.client.post("/predict", files=upload("image", pictures[:3]))
        assert predicted.status_code in (200, 503), predicted.text
    finally:
        redis.start()
    service.settle()
    assert {erasure["state"] for erasure in service.pages("/erasures")} == {"completed"}

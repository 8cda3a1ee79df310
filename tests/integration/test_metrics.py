"""What Prometheus scrapes from running processes, against what really happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.integration.harness import READY_SECONDS, Picture, Service, free_port, launch, until, upload

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]
OWNER = "metrics-owner"
PER_PROCESS = (
    "oubli_request", "oubli_batch", "oubli_queue", "oubli_time_to_withdraw", "oubli_epoch_lag", "oubli_quick_head",
    "oubli_quality", "oubli_evaluation", "process_",
)  # fmt: skip


def parse(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def scrape(url: str, key: str | None) -> Samples:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = httpx.get(f"{url}/metrics", headers=headers, timeout=20.0)
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@contextmanager
def second_api(service: Service) -> Iterator[str]:
    """Another API process on the same data."""
    port = free_port()
    command = ("api", "--data", service.data, "--port", str(port))
    process = launch(*command, env=service.env, log=service.folder / "second.log")
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (service.folder / "second.log").read_text()
            try:
                return httpx.get(f"{url}/health/ready", timeout=30.0).status_code == 200
            except httpx.TransportError:
                return False

        until(ready, seconds=READY_SECONDS, what="the second API")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.thorough
def test_two_replicas_and_a_worker_tell_what_happened(tmp_path: Path, pictures: list[Picture]) -> None:
    with Service(tmp_path).start() as service, second_api(service) as other:
        samples = service.contribute(pictures[:20], OWNER)
        clusters = service.settle()
        service.client.post("/predict", files=upload("image", pictures[:3]))
        for sample in samples[:2]:
            assert service.client.delete(f"/samples/{sample['id']}").status_code == 202
        with service.client_with(service.key) as client:
            erasure = client.delete(f"{other}/samples/{samples[2]['id']}").json()
            again = client.delete(f"{other}/samples/{samples[2]['id']}")
        assert again.status_code in (202, 404)
        service.complete(erasure["id"])
        clusters = service.settle()
        until(lambda: value(scrape(service.url, service.key), "oubli_objects_owed") == 0, what="bytes gone")
        time.sleep(1.1)  # an answer of the registry is kept for a second
        one, two = scrape(service.url, service.key), scrape(other, service.key)

        shared = {key: told for key, told in one.items() if not key[0].startswith(PER_PROCESS)}
        shared = {key: told for key, told in shared.items() if not key[0].startswith("oubli_replica")}
        assert {key: two[key] for key in shared} == shared
        assert value(one, "oubli_registry_up") == 1
        assert value(one, "oubli_samples") == 17 == sum(cluster["samples"] for cluster in clusters)
        assert value(one, "oubli_clusters", state="serving") == len(clusters)
        assert value(one, "oubli_clusters", state="failed") == 0
        assert value(one, "oubli_erasures", state="completed") == 3
        assert value(one, "oubli_time_to_complete_seconds_count") == 3
        assert 0 < value(one, "oubli_time_to_complete_seconds_sum") < 300
        assert value(one, "oubli_time_to_complete_seconds_bucket", le="+Inf") == 3
        assert value(one, "oubli_training_seconds_count") >= len(clusters)
        served = sum(cluster["prompt"]["sample_epochs"] for cluster in clusters)
        assert value(one, "oubli_training_sample_epochs_total") >= served > 0
        assert value(one, "oubli_training_failures_total") == 0
        assert value(one, "oubli_workers_alive") == 1
        assert (value(one, "oubli_erasure_oldest_seconds"), value(one, "oubli_erasures_overdue")) == (0, 0)
        behind = {key: told for key, told in one.items() if key[0] == "oubli_replica_removals_behind"}
        assert len(behind) == 2
        assert set(behind.values()) == {0.0}
        for told in (one, two):
            assert 0 <= value(told, "oubli_epoch_lag") <= value(told, "oubli_serving_epoch")

        # Of each process by itself.
        assert value(one, "oubli_time_to_withdraw_seconds_count") == 2
        assert value(two, "oubli_time_to_withdraw_seconds_count") in (1, 2)  # again: it may have been answered at once
        assert value(one, "oubli_batch_images_sum") == 20 + 3
        assert value(one, "oubli_batch_seconds_count") == value(one, "oubli_batch_images_count") >= 2
        assert value(two, "oubli_batch_images_count") == 0
        assert value(one, "oubli_queue_images") == 0
        assert value(one, "oubli_queue_limit_images") == 512
        deletes = {"method": "DELETE", "route": "/samples/{sample_id}"}
        assert value(one, "oubli_requests_total", **deletes, status="202") == 2
        assert value(one, "oubli_request_seconds_count", **deletes) == 2


def test_no_label_is_personal_and_no_word_of_a_client_makes_a_series(service: Service, owner: str) -> None:
    service.client.delete(f"/owners/{owner}")
    service.client.get("/samples", params={"owner": owner, "label": "secret-label"})
    service.client.get(f"/nothing/{owner}")
    service.client.request("PROPFIND", f"/owners/{owner}")
    text = service.client.get("/metrics").text
    assert owner not in text
    assert "secret-label" not in text
    assert "PROPFIND" not in text
    counted = parse(text)
    assert value(counted, "oubli_requests_total", method="DELETE", route="/owners/{owner:path}", status="404") >= 1
    assert any(dict(labels).get("method") == "other" for _, labels in counted)


def test_openmetrics_is_spoken_to_those_who_ask(service: Service) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = service.client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics(answer.text)}
    assert {"oubli_registry_up", "oubli_training_sample_epochs", "oubli_time_to_complete_seconds"} <= names


def test_a_key_is_asked_for(service: Service) -> None:
    for key, status in ((None, 401), ("oubli_wrong", 401)):
        with service.client_with(key) as client:
            assert client.get("/metrics").status_code == status


@pytest.mark.postgres
@pytest.mark.thorough
def test_a_scrape_does_not_fail_while_the_registry_is_away(tmp_path: Path, pictures: list[Picture]) -> None:
    with ExitStack() as server, Service(tmp_path) as service:
        url = server.enter_context(servers.postgres())
        service.env["OUBLI_DATABASE_URL"] = url
        service.start()
        service.contribute(pictures[:5], OWNER)
        service.settle()
        before = scrape(service.url, service.key)
        assert value(before, "oubli_registry_up") == 1
        server.close()
        time.sleep(1.1)  # its last answer is kept for a second

        started = time.monotonic()
        away = scrape(service.url, service.key)
        assert time.monotonic() - started < 8  # Prometheus gives up after ten
        assert value(away, "oubli_registry_up") == 0
        assert value(away, "oubli_batch_images_sum") == 5
        told = {name for name, _ in away}
        assert not told & {"oubli_samples", "oubli_clusters", "oubli_epoch_lag", "oubli_training_seconds_count"}
        with service.client_with("oubli_wrong") as stranger:
            assert stranger.get("/metrics").status_code == 503  # the registry is away: the key cannot be checked
        assert OWNER not in service.log

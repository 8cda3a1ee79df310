"""The whole service with its images and prompts in a bucket that keeps versions, behind a proxy that can refuse."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.harness import TINY, Picture, Service, assert_problem, oubli, until
from tests.stores import VERSIONED, FaultyProxy, Place, buckets


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with buckets() as server:
        yield Place(server, VERSIONED)


@pytest.fixture(scope="module")
def proxy(place: Place) -> Iterator[FaultyProxy]:
    with FaultyProxy(place.server.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def service(place: Place, proxy: FaultyProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    quick = {"OUBLI_S3__READ_SECONDS": "1", "OUBLI_S3__CONNECT_SECONDS": "1", "OUBLI_TRAINING__RETRY_SECONDS": "1"}
    env = {**TINY, **quick, **place.environment(proxy.url)}
    with Service(tmp_path_factory.mktemp("s3"), env=env).start() as running:
        yield running


def names(place: Place) -> set[str]:
    """Of everything in the bucket, overwritten and marked versions too."""
    return {key for key, _ in place.versions()}


def sample_objects(place: Place) -> set[str]:
    return {name for name in names(place) if name.startswith("samples/")}


def send(service: Service, picture: Picture, owner: str) -> httpx.Response:
    with service.client_with(service.key) as client:
        return client.post(
            "/samples",
            files={"image": (picture.name, picture.data, picture.media_type)},
            data={"label": picture.label, "owner": owner},
        )


def predict(service: Service, picture: Picture) -> httpx.Response:
    return service.client.post("/predict", files={"image": (picture.name, picture.data, picture.media_type)})


def assert_nothing_amiss(service: Service, *, rebuild: str = "0") -> None:
    done = oubli("audit", "--rebuild", rebuild, "--data", service.data, env=service.env, seconds=300.0)
    assert (done.code, done.out.splitlines()[-1:]) == (0, ["0 differences."]), done


def test_what_is_erased_leaves_no_version_in_the_bucket(
    place: Place, service: Service, pictures: list[Picture]
) -> None:
    kept = service.contribute(pictures[:12], "ada")
    gone = service.contribute(pictures[12:20], "bela")
    service.settle()
    prompts = {name for name in names(place) if name.startswith("prompts/")}
    assert {f"samples/{sample['id']}.safetensors" for sample in kept + gone} <= names(place)
    assert prompts
    assert not (service.data / "objects").exists()
    assert predict(service, pictures[0]).status_code == 200
    answer = service.client.delete("/owners/bela")
    assert answer.status_code == 202
    service.complete(answer.json()["id"])
    service.settle()
    until(lambda: sample_objects(place) == {f"samples/{sample['id']}.safetensors" for sample in kept})
    assert not prompts & names(place)
    assert_nothing_amiss(service, rebuild="1")


@pytest.mark.thorough
def test_a_store_that_refuses_writes_holds_up_bytes_and_nothing_else(
    place: Place, proxy: FaultyProxy, service: Service, pictures: list[Picture]
) -> None:
    samples = service.contribute(pictures[20:28], "cora")
    service.settle()
    listed, objects = service.pages("/samples"), sample_objects(place)
    with proxy.refusing_writes():
        refused = send(service, pictures[30], "dora")
        assert_problem(refused, 503, "store", "again")
        assert int(refused.headers["retry-after"]) > 0
        assert service.pages("/samples") == listed
        batch = service.client.post(
            "/samples/batch",
            files=[("images", (p.name, p.data, p.media_type)) for p in pictures[30:33]],
            data={"metadata": '[{"label": "x", "owner": "dora"}, {"label": "x", "owner": "dora"}, '
                              '{"label": "x", "owner": "dora"}]'},
        )  # fmt: skip
        assert_problem(batch, 503)
        accepted = service.client.delete(f"/samples/{samples[0]['id']}")
        assert accepted.status_code == 202
        assert predict(service, pictures[20]).status_code == 200
        until(lambda: "cannot be deleted just now: bucket" in service.log, what="a complaint in the log")
        waits = "It is tried again by itself."
        until(lambda: waits in service.log, what="a training that waits for the store")
        assert service.client.get(accepted.headers["location"]).json()["state"] != "completed"
        assert sample_objects(place) == objects
        assert [s["id"] for s in service.pages("/samples")] == [s["id"] for s in listed if s["id"] != samples[0]["id"]]
        assert predict(service, pictures[20]).status_code == 200
    service.complete(accepted.json()["id"])
    service.settle()
    until(lambda: sample_objects(place) == objects - {f"samples/{samples[0]['id']}.safetensors"})
    assert send(service, pictures[30], "dora").status_code == 201
    service.settle()
    assert_nothing_amiss(service)


@pytest.mark.thorough
def test_a_store_that_hangs_delays_no_deletion_and_ends_no_prediction(
    place: Place, proxy: FaultyProxy, service: Service, pictures: list[Picture]
) -> None:
    samples = service.contribute(pictures[34:40], "emil")
    service.settle()
    with proxy.hanging():
        accepted = service.client.delete(f"/samples/{samples[0]['id']}")
        assert accepted.status_code == 202
        assert accepted.elapsed.total_seconds() < 2  # one request to the store alone takes longer
        for picture in pictures[34:40]:
            assert predict(service, picture).status_code == 200
        assert_problem(send(service, pictures[41], "dora"), 503, "store")
    service.complete(accepted.json()["id"])
    service.settle()
    assert_nothing_amiss(service)


@pytest.mark.thorough
def test_nothing_of_keys_or_bucket_is_told_to_callers_and_no_secret_is_logged(place: Place, service: Service) -> None:
    assert place.server.keys[1] not in service.log
    assert place.bucket not in service.client.get("/status").text


@pytest.mark.thorough
def test_a_new_registry_does_not_take_over_what_another_one_holds(place: Place, service: Service) -> None:
    """Whatever it does not know it would destroy."""
    before = names(place)
    new_sample = Service(service.folder / "other", env=service.env)
    new_sample.start(ready=False)
    assert new_sample.process.wait(60) == 2
    assert "prefix of its own" in new_sample.log
    assert names(place) == before


@pytest.mark.thorough
def test_a_store_that_cannot_be_used_is_said_at_start(place: Place, service: Service) -> None:
    wrong = {**service.env, "OUBLI_S3__SECRET_ACCESS_KEY": "wrong-all-along"}
    refused = Service(service.folder / "wrong", env=wrong)
    refused.start(ready=False)
    assert refused.process.wait(60) == 2
    assert place.bucket in refused.log
    assert "wrong-all-along" not in refused.log

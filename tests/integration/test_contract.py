"""Every row of the HTTP contract, over the wire: status codes, headers, shapes, paging, idempotency, erasure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from uuid6 import uuid7

from tests.integration.harness import Picture, Service, assert_problem, upload

LISTS = ("/samples", "/erasures", "/clusters")


@pytest.fixture(scope="module")
def trained(service: Service, pictures: list[Picture]) -> Iterator[list[dict[str, Any]]]:
    """Thirty samples of three owners, trained."""
    owners = [f"contract-{i % 3}" for i in range(30)]
    samples = service.contribute(pictures[:30], owners)
    service.settle()
    yield samples
    for name in set(owners):
        service.client.delete(f"/owners/{name}")


def assert_uuid7(text: str) -> None:
    assert UUID(text).version == 7
    assert str(UUID(text)) == text


def assert_time(text: str) -> datetime:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text), text
    return datetime.fromisoformat(text)


def post(service: Service, picture: Picture, *, label: str, owner: str, key: str | None = None) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return service.client.post(
        "/samples", files=upload("image", [picture]), data={"label": label, "owner": owner}, headers=headers
    )


# ------------------------------------------------------------------------------------------------------------ samples


def test_a_sample_is_created_and_looked_up(service: Service, pictures: list[Picture], owner: str) -> None:
    answer = post(service, pictures[0], label="plane", owner=owner)
    assert answer.status_code == 201
    sample = answer.json()
    assert set(sample) == {"id", "owner", "label", "digest", "role", "state", "cluster", "created_at"}
    assert sample["role"] == "training"
    assert_uuid7(sample["id"])
    assert_uuid7(sample["cluster"])
    assert abs(datetime.now(UTC) - assert_time(sample["created_at"])) < timedelta(minutes=5)
    assert re.fullmatch(r"[0-9a-f]{64}", sample["digest"])
    assert (sample["owner"], sample["label"], sample["state"]) == (owner, "plane", "active")
    assert answer.headers["location"] == f"/samples/{sample['id']}"
    found = service.client.get(answer.headers["location"])
    assert found.status_code == 200
    assert {**found.json(), "cluster": None} == {**sample, "cluster": None}  # a re-cut may have moved it


def test_a_batch_keeps_its_order(service: Service, pictures: list[Picture], owner: str) -> None:
    samples = service.contribute(pictures[:5], owner)
    assert [sample["label"] for sample in samples] == [picture.label for picture in pictures[:5]]
    listed = service.client.get("/samples", params={"owner": owner}).json()["items"]
    assert [sample["id"] for sample in listed] == [sample["id"] for sample in samples]


def test_filters_select(service: Service, trained: list[dict[str, Any]]) -> None:
    def ids(**query: str) -> set[str]:
        return {sample["id"] for sample in service.pages("/samples", **query)}

    now = {sample["id"]: sample for sample in service.pages("/samples")}
    mine = {sample["id"] for sample in trained if sample["owner"] == "contract-1"}
    assert ids(owner="contract-1") == mine
    label = trained[0]["label"]
    assert ids(label=label) == {i for i, sample in now.items() if sample["label"] == label}
    assert ids(label=label, owner="contract-1") == mine & ids(label=label)
    cluster = now[trained[0]["id"]]["cluster"]
    assert trained[0]["id"] in ids(cluster=cluster)
    assert ids(owner="nobody") == ids(label="nothing") == ids(cluster=str(uuid7())) == set()


# -------------------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("path", LISTS)
def test_lists_page_without_gaps_or_repeats(service: Service, trained: list[dict[str, Any]], path: str) -> None:
    if path == "/erasures":
        for picture in trained[-3:]:
            service.client.delete(f"/samples/{picture['id']}")
    service.settle()
    whole = service.client.get(path, params={"limit": 200}).json()
    assert whole["next_cursor"] is None
    assert len(whole["items"]) >= 2
    pieces, cursor = [], None
    for _ in range(200):
        page = service.client.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert set(page) == {"items", "next_cursor"}
        assert 1 <= len(page["items"]) <= 2
        pieces += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pieces == whole["items"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=%21garbage", "cursor=AAAA", "cursor=%00"])
def test_impossible_paging_is_refused(service: Service, path: str, query: str) -> None:
    assert_problem(service.client.get(f"{path}?{query}"), 422)


# -------------------------------------------------------------------------------------------------------- idempotency


def test_a_repeated_contribution_is_one_sample(service: Service, pictures: list[Picture], owner: str) -> None:
    key = uuid4().hex
    first = post(service, pictures[1], label="a", owner=owner, key=key)
    again = post(service, pictures[1], label="a", owner=owner, key=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    assert_problem(post(service, pictures[1], label="b", owner=owner, key=key), 422)
    assert_problem(post(service, pictures[2], label="a", owner=owner, key=key), 422)
    assert len(service.pages("/samples", owner=owner)) == 1


def test_a_repeated_contribution_at_once_is_one_sample(service: Service, pictures: list[Picture], owner: str) -> None:
    key = uuid4().hex
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(service, pictures[3], label="a", owner=owner, key=key), range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len(service.pages("/samples", owner=owner)) == 1


def test_a_repeated_erasure_is_one_erasure(service: Service, pictures: list[Picture], owner: str) -> None:
    first, second = service.contribute(pictures[:2], owner)
    headers = {"Idempotency-Key": uuid4().hex}
    body = {"samples": [first["id"]]}
    answers = [service.client.post("/erasures", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert_problem(service.client.post("/erasures", json={"samples": [second["id"]]}, headers=headers), 422)
    service.complete(answers[0].json()["id"])
    later = service.client.post("/erasures", json=body, headers=headers)
    assert later.status_code == 202
    assert later.json()["id"] == answers[0].json()["id"]
    assert service.client.get(f"/samples/{second['id']}").status_code == 200


# ------------------------------------------------------------------------------------------------------------ erasure


def test_the_life_of_an_erasure(service: Service, pictures: list[Picture], owner: str) -> None:
    sample = service.contribute(pictures[:6], owner)[2]
    service.settle()
    answer = service.client.delete(f"/samples/{sample['id']}")
    assert answer.status_code == 202
    erasure = answer.json()
    assert set(erasure) == {
        "id", "subject", "state", "samples", "clusters", "accepted_at", "withdrawn_at", "completed_at",
        "restored_at", "failure", "due_at"
    }  # fmt: skip
    assert_uuid7(erasure["id"])
    assert answer.headers["location"] == f"/erasures/{erasure['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert erasure["subject"] == {"samples": 1}
    assert (erasure["state"], erasure["restored_at"]) == ("withdrawn", None)
    assert erasure["clusters"]
    assert set(erasure["clusters"][0]) == {"cluster", "prompt_before", "prompt_after", "state"}
    assert_problem(service.client.get(f"/samples/{sample['id']}"), 404)
    # While it runs, the same erasure; once it is completed, nothing is there to be deleted.
    again = service.client.delete(f"/samples/{sample['id']}")
    assert again.status_code in (202, 404)
    if again.status_code == 202:
        assert again.json()["id"] == erasure["id"]
    done = service.complete(erasure["id"])
    times = [
        assert_time(done[name]) for name in ("accepted_at", "withdrawn_at", "completed_at", "restored_at", "due_at")
    ]
    assert times == sorted(times)
    assert times[4] - times[0] == timedelta(days=30)
    served = {c["prompt"]["key"] for c in service.settle() if c["prompt"]}
    for affected in done["clusters"]:
        assert affected["state"] in ("restored", "removed")
        assert affected["prompt_before"] not in served
    assert_problem(service.client.delete(f"/samples/{sample['id']}"), 404)
    listed = service.pages("/erasures", state="completed")
    assert done in listed
    assert done["id"] not in {item["id"] for item in service.pages("/erasures", state="failed")}
    assert_problem(service.client.get("/erasures?state=lost"), 422)


def test_forgetting_an_owner(service: Service, pictures: list[Picture], owner: str) -> None:
    samples = service.contribute(pictures[:7], owner)
    answer = service.client.delete(f"/owners/{owner}")
    assert answer.status_code == 202
    erasure = answer.json()
    assert erasure["subject"] == {"owner": owner}
    assert erasure["samples"] == 7
    assert service.pages("/samples", owner=owner) == []
    for sample in samples:
        assert_problem(service.client.get(f"/samples/{sample['id']}"), 404)
    service.complete(erasure["id"])
    assert_problem(service.client.delete(f"/owners/{owner}"), 404)
    assert_problem(service.client.post("/erasures", json={"owner": owner}), 404)


def test_forgetting_the_same_owner_at_once(service: Service, pictures: list[Picture], owner: str) -> None:
    service.contribute(pictures[:5], owner)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: service.client.delete(f"/owners/{owner}"), range(6)))
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {answer.status_code for answer in answers} <= {202, 404}
    assert len(accepted) == 1


def test_erasing_several_is_all_or_nothing(service: Service, pictures: list[Picture], owner: str) -> None:
    ids = [sample["id"] for sample in service.contribute(pictures[:3], owner)]
    stranger = str(uuid7())
    assert_problem(service.client.post("/erasures", json={"samples": [*ids, stranger]}), 404, stranger)
    assert len(service.pages("/samples", owner=owner)) == 3
    answer = service.client.post("/erasures", json={"samples": [*ids, ids[0]]})
    assert answer.status_code == 202
    assert answer.json()["samples"] == 3
    assert answer.headers["location"] == f"/erasures/{answer.json()['id']}"
    assert service.pages("/samples", owner=owner) == []


def test_a_quote_changes_nothing(service: Service, pictures: list[Picture], owner: str) -> None:
    ids = [sample["id"] for sample in service.contribute(pictures[:8], owner)]
    service.settle()
    before, served = service.status(), service.digests()
    for subject in ({"owner": owner}, {"samples": ids[:1]}):
        answer = service.client.post("/erasures", json={**subject, "validate_only": True})
        assert answer.status_code == 200
        quote = answer.json()
        assert set(quote) == {"samples", "clusters", "sample_epochs", "seconds", "full_sample_epochs", "described"}
        assert quote["described"] == 0
        assert quote["samples"] == (8 if "owner" in subject else 1)
        assert quote["clusters"]
        assert 0 <= quote["sample_epochs"] <= quote["full_sample_epochs"]
        assert quote["seconds"] is None or quote["seconds"] >= 0
        assert "location" not in answer.headers
    after = service.status()
    assert (after["samples"], after["erasures"]) == (before["samples"], before["erasures"])
    assert service.digests() == served
    assert_problem(service.client.post("/erasures", json={"owner": "nobody", "validate_only": True}), 404)


@pytest.mark.parametrize(
    "body",
    [{}, {"samples": []}, {"samples": [str(uuid4())], "owner": "a"}, {"owner": ""}, {"owner": "a" * 129},
     {"samples": ["x"]}, {"owner": "a", "more": 1}, [], "text", None, {"owner": "\ud800"}],
)  # fmt: skip
def test_impossible_erasures_are_refused(service: Service, body: Any) -> None:
    answer = service.client.post("/erasures", content=json.dumps(body), headers={"Content-Type": "application/json"})
    problem = assert_problem(answer, 422)
    assert problem["errors"]
    assert set(problem["errors"][0]) == {"field", "detail"}


# --------------------------------------------------------------------------------------------------------- prediction


def test_predictions_keep_their_order(service: Service, trained: list[dict[str, Any]], pictures: list[Picture]) -> None:
    service.settle()  # nothing is retrained between the two askings
    answer = service.client.post("/predict", files=upload("image", pictures[:20]), params={"top_k": 2})
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert len(predictions) == 20
    served = {c["prompt"]["key"]: c["id"] for c in service.settle() if c["prompt"]}
    for prediction in predictions:
        assert set(prediction) == {"label", "score", "scores", "cluster", "prompt", "tier", "degraded", "head"}
        assert 1 <= len(prediction["scores"]) <= 2
        assert prediction["scores"][0] == {"label": prediction["label"], "score": prediction["score"]}
        assert 0 <= prediction["score"] <= 1
        assert prediction["prompt"] in served
    for picture, whole in zip(pictures[:20], predictions, strict=True):
        alone = service.client.post("/predict", files=upload("image", [picture]), params={"top_k": 2})
        (single,) = alone.json()["predictions"]
        assert single["label"] == whole["label"]
        assert single["score"] == pytest.approx(whole["score"], abs=1e-4)
        if picture is pictures[4]:
            break


# -------------------------------------------------------------------------------------------------------------- model


def test_clusters_say_what_they_serve(service: Service, trained: list[dict[str, Any]]) -> None:
    clusters = service.settle()
    assert len(clusters) > 1
    for cluster in clusters:
        assert {"id", "samples", "labels", "state", "prompt"} <= set(cluster)
        assert_uuid7(cluster["id"])
        assert cluster["state"] == "serving"
        assert 4 <= cluster["samples"] <= 12
        prompt = cluster["prompt"]
        assert {"key", "digest", "trained_at", "members", "sample_epochs", "seconds"} == set(prompt)
        assert_time(prompt["trained_at"])
        assert prompt["members"] == cluster["samples"]
    cluster = clusters[0]
    assert service.client.get(f"/clusters/{cluster['id']}").json() == cluster
    assert_problem(service.client.get(f"/clusters/{uuid7()}"), 404)
    members = service.pages("/samples", cluster=cluster["id"])
    assert len(members) == cluster["samples"]
    assert {member["label"] for member in members} == set(cluster["labels"])


def test_labels_count_what_is_held(service: Service, trained: list[dict[str, Any]]) -> None:
    counts = {item["label"]: item["samples"] for item in service.client.get("/labels").json()}
    listed = [sample["label"] for sample in service.pages("/samples")]
    assert counts == {label: listed.count(label) for label in set(listed)}


def test_the_partition(service: Service) -> None:
    partition = service.client.get("/partition").json()
    assert {"kind", "anchors", "clusters", "digest", "distance_threshold"} <= set(partition)
    assert (partition["kind"], partition["cap"], partition["min"]) == ("tree", 12, 4)


def test_status_adds_up(service: Service, trained: list[dict[str, Any]]) -> None:
    service.settle()
    status = service.status()
    samples = service.pages("/samples")
    assert status["samples"] == len(samples) == len(service.objects())
    assert status["owners"] == len({sample["owner"] for sample in samples})
    assert sum(status["clusters"].values()) == len(service.pages("/clusters"))
    assert sum(status["erasures"].values()) == len(service.pages("/erasures"))
    assert status["queue_age_seconds"] is None
    assert status["backbone"]["name"] == "tiny"
    assert status["device"] == "cpu"
    (worker,) = status["workers"]
    assert worker["alive"]
    assert_time(worker["heartbeat_at"])


# --------------------------------------------------------------------------------------------------------- operations


def test_health_needs_no_key(service: Service) -> None:
    with service.client_with(None) as stranger:
        live, ready = stranger.get("/health/live"), stranger.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


def test_metrics_can_be_scraped(service: Service) -> None:
    service.client.get(f"/samples/{uuid7()}")
    answer = service.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"])
        for sample in families["oubli_requests"].samples
        if sample.name == "oubli_requests_total"
    }
    assert ("GET", "/samples/{sample_id}", "404") in counted
    assert "oubli_request_seconds" in families


def test_every_response_has_a_request_id(service: Service) -> None:
    assert_uuid7(service.client.get("/health/live").headers["x-request-id"])
    for given in ("abc-1.2_3", "x" * 64):
        assert service.client.get("/health/live", headers={"X-Request-Id": given}).headers["x-request-id"] == given
    for given in ("x" * 65, "a b", "<script>", "é".encode()):
        answered = service.client.get("/nothing", headers={"X-Request-Id": given}).headers["x-request-id"]
        assert_uuid7(answered)


def test_the_framework_s_own_errors_are_problems(service: Service) -> None:
    assert_problem(service.client.get("/nothing"), 404)
    assert_problem(service.client.get("/samples/not-an-id"), 422)
    refused = service.client.put("/samples")
    assert_problem(refused, 405)
    assert refused.headers["allow"]
    assert_problem(service.client.get("/docs-static/nothing.js"), 404)


def test_a_missing_key_is_asked_for(service: Service) -> None:
    with service.client_with(None) as stranger:
        answer = stranger.get("/status")
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"

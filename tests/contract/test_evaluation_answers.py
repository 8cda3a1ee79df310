"""Roles over HTTP: how a sample is given one, and what `GET /quality` and the metrics say of the evaluation set."""

import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.deps import Service
from tests.front import Front
from tests.integration.harness import assert_problem, digit_pictures, until, upload

FRONT: dict[str, Any] = {
    "quality": {"settle_seconds": 0, "share": 1},
    "worker": {"heartbeat_seconds": 0.05},
}
PICTURES = digit_pictures(30)
ALLOWED = "training"  # is named where another role is refused


def give(client: httpx.Client, place: int, **words: str) -> httpx.Response:
    """One digit."""
    said = {"label": PICTURES[place].label, "owner": "ada", **words}
    return client.post("/samples", files=upload("image", [PICTURES[place]]), data=said)


def evaluation(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/quality")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["evaluation"]
    return found


def measured(client: httpx.Client, samples: int) -> dict[str, Any]:
    """The report once it counts so many, and all that is learned."""

    def is_there() -> bool:
        found = evaluation(client)
        return (found["samples"], found["learned"]) == (samples, client.get("/status").json()["samples"])

    until(is_there, what=f"a report of {samples} evaluation samples")
    return evaluation(client)


def metrics(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if s.name.startswith("oubli_evaluation_")}


@pytest.fixture(autouse=True)
def emptied(client: httpx.Client) -> None:
    for owner in {sample["owner"] for sample in client.get("/samples").json()["items"]}:
        assert client.delete(f"/owners/{owner}").status_code == 202


def test_a_sample_has_a_role_and_is_found_by_it(client: httpx.Client) -> None:
    plain, apart = give(client, 0).json(), give(client, 1, role="evaluation").json()
    assert (plain["role"], apart["role"], apart["cluster"]) == ("training", "evaluation", None)
    assert plain["cluster"] is not None
    assert client.get(f"/samples/{apart['id']}").json() == apart
    for role, one in (("training", plain), ("evaluation", apart)):
        assert [item["id"] for item in client.get("/samples", params={"role": role}).json()["items"]] == [one["id"]]
    assert len(client.get("/samples").json()["items"]) == 2
    status = client.get("/status").json()
    assert (status["samples"], status["evaluation_samples"], status["owners"]) == (1, 1, 1)
    assert [one["label"] for one in client.get("/labels").json()] == [plain["label"]]


def test_a_core_sample_is_listed_by_its_role_and_the_adapter_is_shown_apart_from_clusters(client: httpx.Client) -> None:
    plain, core = give(client, 2).json(), give(client, 3, role="core").json()
    assert (core["role"], core["cluster"]) == ("core", plain["cluster"])
    assert [item["id"] for item in client.get("/samples", params={"role": "core"}).json()["items"]] == [core["id"]]
    status = client.get("/status").json()
    assert status["samples"] == 2
    assert status["core"] == {
        "samples": 1,
        "members": None,
        "digest": None,
        "state": "training",
        "failure": None,
        "described": 0,
        "closed_form": None,
    }
    assert sum(cluster["samples"] for cluster in client.get("/clusters").json()["items"]) == 2
    quotes = [
        client.post("/erasures", json={"samples": [one["id"]], "validate_only": True}).json() for one in (plain, core)
    ]
    assert [(len(quote["clusters"]), quote["described"]) for quote in quotes] == [
        (1, 0),
        (2, 0),
    ]  # nothing would be left
    accepted = client.delete(f"/samples/{core['id']}").json()
    (adapter,) = {one["cluster"] for one in accepted["clusters"]} - {core["cluster"]}
    assert client.get(f"/clusters/{adapter}").status_code in (200, 404)  # until the plan


def test_an_unknown_role_is_refused_naming_those_that_there_are(client: httpx.Client) -> None:
    assert_problem(give(client, 0, role="cores"), 422, ALLOWED, "role")
    assert_problem(client.get("/samples", params={"role": "test"}), 422, ALLOWED)
    said = {"label": "1", "owner": "ada", "role": "held out"}
    raw = {"content-type": "image/png"}
    assert_problem(client.post("/samples", content=PICTURES[0].data, params=said, headers=raw), 422, ALLOWED)


def test_an_image_as_the_body_itself_has_its_role_in_the_query(client: httpx.Client) -> None:
    said = {"label": "1", "owner": "ada", "role": "evaluation"}
    raw = {"content-type": "image/png"}
    answer = client.post("/samples", content=PICTURES[0].data, params=said, headers=raw)
    assert (answer.status_code, answer.json()["role"]) == (201, "evaluation")
    form = client.post("/samples", files=upload("image", PICTURES[:1]), data=said, params={"role": "training"})
    assert_problem(form, 422, "role")


def test_each_image_of_a_batch_has_a_role_of_its_own(client: httpx.Client) -> None:
    roles = ["evaluation", "cores", None, "core"]
    metadata = [{"label": "1", "owner": "ada", **({"role": role} if role else {})} for role in roles]
    answer = client.post(
        "/samples/batch", files=upload("images", PICTURES[:4]), data={"metadata": json.dumps(metadata)}
    )
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201, 422, 201, 201]
    assert items[1]["problem"]["detail"] == "role must be one of training, core, evaluation."
    assert [item["sample"]["role"] for item in items if "sample" in item] == ["evaluation", "training", "core"]


def test_a_repeated_key_with_another_role_is_another_request(client: httpx.Client) -> None:
    def send(role: str | None) -> httpx.Response:
        said = {"label": "1", "owner": "ada", **({"role": role} if role else {})}
        return client.post("/samples", files=upload("image", PICTURES[:1]), data=said, headers={"Idempotency-Key": "k"})

    first = send(None).json()
    assert (send("training").json()["id"], send(None).json()["id"]) == (first["id"], first["id"])
    assert_problem(send("evaluation"), 422, "Idempotency-Key")


def test_the_evaluation_set_is_measured_and_an_erasure_ends_the_report_at_once(
    front: Front, client: httpx.Client
) -> None:
    assert evaluation(client)["state"] == "none"
    assert metrics(client) == {}
    for place in range(12):
        assert give(client, place).status_code == 201
    apart = [give(client, place, owner="eve", role="evaluation").json() for place in range(10, 24)]
    found = measured(client, 12)
    assert (found["state"], found["also_learned"], found["learned"]) == ("ready", 2, 12)
    assert found["digest"] == client.get("/status").json()["closed_form"]["digest"]
    low, high = found["interval"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    wrong = sum(pair["samples"] for pair in found["confusion"])
    assert found["accuracy"] == pytest.approx(1 - wrong / 12)
    known = {one["label"] for one in client.get("/labels").json()}
    counted = {sample["label"] for sample in apart[2:]}
    assert {one["label"] for one in found["labels"]} == counted
    assert found["unknown_labels"] == sorted(counted - known)
    assert metrics(client) == {
        "oubli_evaluation_accuracy": pytest.approx(found["accuracy"]),
        "oubli_evaluation_calibration_error": pytest.approx(found["calibration_error"]),
        "oubli_evaluation_samples": 12,
    }
    service: Service = front.app.state.service
    assert service.held_out is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.held_out, "look", lambda now: False)
        with service.held_out.quality._computing:  # what is under way ends first
            pass
        erasure = client.delete(f"/samples/{apart[-1]['id']}").json()
        assert evaluation(client)["state"] == "waiting"
        assert metrics(client) == {}
        assert client.get("/quality").json()["state"] == "ready"  # which knows nothing of it
        until(lambda: client.get(f"/erasures/{erasure['id']}").json()["state"] == "completed", what="the erasure")
        assert service.held_out.quality._measured is None
    assert measured(client, 11)["also_learned"] == 2
    assert client.delete("/owners/eve").status_code == 202
    until(lambda: evaluation(client)["state"] == "none", what="no evaluation set")
    assert metrics(client) == {}

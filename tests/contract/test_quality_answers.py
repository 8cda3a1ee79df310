"""`GET /quality` and its metrics, at a real port: whom it answers, and that an erased sample is in no answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.deps import Service
from tests.front import Front, served
from tests.integration.harness import assert_problem, digit_pictures, until, upload

FRONT: dict[str, Any] = {
    "quality": {"settle_seconds": 0, "share": 1},
    "worker": {"heartbeat_seconds": 0.05},
}
EMPTY = dict.fromkeys(
    ("samples", "digest", "ridge", "temperature", "chosen_from", "as_of", "computed_at", "added_since", "accuracy",
     "calibration_error", "reliability", "labels", "confusion")
)  # fmt: skip
NO_SET = {
    "state": "none",
    **dict.fromkeys((*EMPTY.keys() - {"ridge", "temperature", "chosen_from"}, "also_learned", "learned", "interval")),
    "unknown_labels": None,
}
PICTURES = 24
CHOSEN = ("digest", "samples", "ridge", "temperature", "chosen_from")


def give(client: httpx.Client, count: int, owner: str) -> list[str]:
    """The first so many digits, as one owner's; their ids."""
    chosen = digit_pictures(count)
    given = []
    for picture in chosen:
        words = {"label": picture.label, "owner": owner}
        answer = client.post("/samples", files=upload("image", [picture]), data=words)
        assert answer.status_code in (200, 201), answer.text
        given.append(answer.json()["id"])
    return given


def report(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/quality")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ready(client: httpx.Client, samples: int) -> dict[str, Any]:
    """The report once it counts so many samples."""
    until(lambda: report(client)["samples"] == samples, what=f"a report of {samples} samples")
    return report(client)


def metrics(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if s.name.startswith("oubli_quality_")}


@contextmanager
def nothing_is_computed(front: Front) -> Iterator[None]:
    """Whatever changes meanwhile: until the block ends."""
    service: Service = front.app.state.service
    assert service.quality is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.quality, "look", lambda now: False)
        with service.quality.quality._computing:  # what is under way ends first
            pass
        yield


def test_it_is_of_the_samples_on_record_and_an_erasure_ends_it_at_once(front: Front, client: httpx.Client) -> None:
    assert report(client) == {"state": "waiting", **EMPTY, "evaluation": NO_SET}
    assert metrics(client) == {}
    ids = give(client, PICTURES, "ada")
    first = ready(client, PICTURES)
    assert first["state"] == "ready"
    assert first["digest"] == client.get("/status").json()["closed_form"]["digest"]
    assert (first["ridge"], first["temperature"], first["chosen_from"]) == (0.1, 0.1, 0)
    assert first["as_of"] <= first["computed_at"]
    assert (first["added_since"], 0 <= first["accuracy"] <= 1, 0 <= first["calibration_error"] <= 1) == (0, True, True)
    counted = {label["label"]: label["samples"] for label in first["labels"]}
    assert counted == {one["label"]: one["samples"] for one in client.get("/labels").json()}
    assert sum(part["samples"] for part in first["reliability"]) == PICTURES
    wrong = sum(pair["samples"] for pair in first["confusion"])
    assert first["accuracy"] == pytest.approx(1 - wrong / PICTURES)
    assert metrics(client) == {
        "oubli_quality_accuracy": pytest.approx(first["accuracy"]),
        "oubli_quality_calibration_error": pytest.approx(first["calibration_error"]),
        "oubli_quality_samples": PICTURES,
    }

    with nothing_is_computed(front):
        give(client, 3, "bela")
        stale = report(client)
        assert (stale["state"], stale["samples"], stale["added_since"]) == ("ready", PICTURES, 3)
        assert client.delete(f"/samples/{ids[0]}").status_code == 202
        assert report(client) == {"state": "waiting", **EMPTY, "evaluation": NO_SET}
        assert metrics(client) == {}  # though the last scrape was a moment ago
    assert ready(client, PICTURES + 2)["added_since"] == 0

    with nothing_is_computed(front):
        assert client.delete("/owners/ada").status_code == 202
        assert report(client)["state"] == "waiting"
    assert ready(client, 3)["state"] == "ready"
    assert client.delete("/owners/bela").status_code == 202
    assert report(client) == {"state": "waiting", **EMPTY, "evaluation": NO_SET}
    assert_erased(front)


def assert_erased(front: Front) -> None:
    """The replica has let go of what it knew, and its objects are destroyed."""
    with front.client() as client:
        until(
            lambda: {one["state"] for one in client.get("/erasures").json()["items"]} == {"completed"},
            what="erasures to be completed",
        )
    service: Service = front.app.state.service
    assert service.quality is not None
    assert service.quality.quality._measured is None


def test_lambda_and_temperature_are_told_and_the_constants_with_any_erasure(
    front: Front, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.choice.FEWEST", PICTURES - 2)
    ids = give(client, PICTURES, "cyd")
    until(lambda: report(client)["chosen_from"], what="a choice")
    until(lambda: tier(client)["settled"], what="a head that is solved with it")
    found = report(client)
    assert {name: found[name] for name in CHOSEN} == {name: tier(client)[name] for name in CHOSEN}
    assert (found["ridge"], found["temperature"]) != (0.1, 0.1)
    with nothing_is_computed(front):
        assert client.delete(f"/samples/{ids[0]}").status_code == 202
        assert tier(client) == {**tier(client), "ridge": 0.1, "temperature": 0.1, "chosen_from": 0, "settled": False}
    until(lambda: tier(client)["settled"], what="another choice")
    assert tier(client)["chosen_from"] > 0
    assert client.delete("/owners/cyd").status_code == 202
    assert tier(client)["settled"]  # of nothing there is nothing to choose


def tier(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/status").json()["closed_form"]
    return found


def test_it_is_for_keys_with_the_scope_read(front: Front) -> None:
    with front.client(front.make_key("read")) as reader:
        assert reader.get("/quality").status_code == 200
    with front.client(front.make_key("predict", "samples", "erase")) as other:
        assert_problem(other.get("/quality"), 403, "read")
    with front.stranger() as stranger:
        assert_problem(stranger.get("/quality"), 401)


def test_what_it_does_not_know_is_refused(client: httpx.Client) -> None:
    assert_problem(client.get("/quality", params={"label": "digit 1"}), 422, "label")
    assert_problem(client.post("/quality"), 405)


@pytest.mark.parametrize("groups", [{"quality": {"enabled": False}}, {"closed_form": {"enabled": False}}])
def test_it_can_be_off(groups: dict[str, Any], tmp_path: Path) -> None:
    with served(tmp_path, **groups) as front, front.client() as client:
        give(client, 4, "ada")
        assert report(client) == {"state": "off", **EMPTY, "evaluation": {**NO_SET, "state": "off"}}
        assert metrics(client) == {}

"""What every answer says beside its body; methods; what is shown to strangers; and what a proxy makes of paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.app import create_app
from service.errors import Misconfigured
from service.settings import load_settings
from tests.front import NOBODY, Front, picture, served
from tests.integration.harness import assert_kind
from tests.world import settings

RAW = {"Content-Type": "image/png"}


# ------------------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/samples", "GET, POST"), ("/samples/batch", "POST"), (f"/samples/{NOBODY}", "DELETE, GET"),
     ("/samples/no-id", "DELETE, GET"), ("/owners/ada", "DELETE"), ("/owners/a/b", "DELETE"),
     ("/erasures", "GET, POST"),
     (f"/erasures/{NOBODY}", "GET"), ("/predict", "POST"), ("/clusters", "GET"), (f"/clusters/{NOBODY}/retry", "POST"),
     ("/health/live", "GET, HEAD"), ("/metrics", "GET"), ("/keys", "GET, POST"), ("/docs", "GET"),
     ("/openapi.json", "GET"), ("/docs-static/swagger-ui.css", "GET, HEAD"), ("/docs-static/no/such", "GET, HEAD")],
)  # fmt: skip
def test_a_method_that_a_path_does_not_have_is_405_and_the_others_are_named(
    client: httpx.Client, path: str, allowed: str
) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        answer = client.request(method, path)
        if method in allowed.split(", "):
            assert answer.status_code != 405
        else:
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method


def test_an_unknown_path_is_404_whatever_the_method(client: httpx.Client) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert client.request(method, "/nothing").status_code == 404


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_can_be_asked_without_a_body(front: Front, path: str) -> None:
    with front.stranger() as stranger:
        asked, got = stranger.head(path), stranger.get(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers["content-length"] == str(len(got.content))


# ------------------------------------------------------------------------------------------------------------ nothing


@pytest.mark.parametrize("raw", [True, False])
def test_where_nothing_has_been_contributed_nothing_can_be_predicted_and_waiting_does_not_help(
    front: Front, client: httpx.Client, raw: bool
) -> None:
    sent: dict[str, Any] = {"content": picture(), "headers": RAW} if raw else {"files": {"image": ("a", picture())}}
    answer = client.post("/predict", **sent)
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing-contributed")
    assert "contribute" in answer.json()["detail"].lower()
    assert "retry-after" not in answer.headers


def test_a_prediction_that_may_come_is_503(tmp_path: Path) -> None:
    with served(tmp_path, closed_form={"enabled": False}) as front, front.client() as client:
        words = {"label": "a", "owner": "ada"}
        assert client.post("/predict", content=picture(), headers=RAW).status_code == 409
        sample = client.post("/samples", content=picture(), headers=RAW, params=words)
        assert sample.status_code == 201
        answer = client.post("/predict", content=picture(), headers=RAW)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")  # it is being trained
        assert client.delete(sample.headers["location"]).status_code == 202
        assert client.post("/predict", content=picture(), headers=RAW).status_code == 409


# ------------------------------------------------------------------------------------------------------------- codes


def test_a_wrong_address_is_not_taken_for_a_sample_that_has_gone(client: httpx.Client) -> None:
    assert client.delete("/v1/samples/" + NOBODY).json()["code"] == "no-such-path"
    assert client.delete("/samples/" + NOBODY).json()["code"] == "not-found"


def test_each_refused_image_of_a_batch_has_a_problem_of_its_own(client: httpx.Client) -> None:
    metadata = json.dumps([{"label": "a", "owner": "."}, {"label": "a", "owner": "ada"}])
    files = [("images", ("a.png", data)) for data in (picture(), b"no image")]
    answer = client.post("/samples/batch", files=files, data={"metadata": metadata})
    assert answer.status_code == 200
    items = answer.json()["items"]
    for item in items:
        assert_kind(item["problem"])
    assert [item["problem"]["code"] for item in items] == ["invalid", "unsupported-media"]


def test_each_refused_image_of_a_prediction_has_a_code_of_its_own(client: httpx.Client) -> None:
    files = [("image", ("a", data)) for data in (b"no image", bytes(11_000_000))]
    answer = client.post("/predict", files=files)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media")
    assert [one["code"] for one in answer.json()["errors"]] == ["unsupported-media", "too-large"]


# ------------------------------------------------------------------------------------------------------------ headers

ANSWERS = ["/samples", "/status", "/erasures", "/clusters", "/labels", "/partition", "/quality", "/metrics",
           "/health/live", "/health/ready", "/nothing", "/samples/no-id", f"/samples/{NOBODY}"]  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
def test_no_answer_may_be_kept_framed_or_guessed_at(front: Front, path: str) -> None:
    with front.client() as known, front.stranger() as stranger:
        for answer in (known.get(path), stranger.get(path)):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers


def test_neither_may_an_answer_to_our_own_mistake(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.routes.model.samples.labels", None)
    answer = client.get("/labels")
    assert answer.status_code == 500
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("path", ["/samples/", "/status/", "/health/live/", "/docs/"])
def test_a_slash_too_many_is_not_redirected_to_whatever_host_the_caller_names(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert "evil" not in answer.text


# --------------------------------------------------------------------------------------------------------------- docs


def test_the_page_runs_nothing_that_is_written_into_it(front: Front) -> None:
    with front.stranger() as stranger:
        page = stranger.get("/docs")
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert re.findall(r"<script(?![^>]*src=)|<style|style=|\son\w+=|javascript:", page.text) == []
        for place in re.findall(r'(?:src|href|data-description)="([^"]+)"', page.text):
            loaded = stranger.get(place)
            assert loaded.status_code == 200, place
            assert loaded.headers["x-content-type-options"] == "nosniff"
        script = stranger.get("/docs/start.js").text
    assert "persistAuthorization: false" in script
    assert 'localStorage.removeItem("authorized")' in script


def test_examples_are_real_and_nothing_is_shown_twice(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    form = document["components"]["schemas"]["Body_create_sample_samples_post"]
    assert set(form["required"]) == {"image", "label", "owner"}
    for name in ("label", "owner"):
        assert form["properties"][name]["examples"][0] not in ("", "string")
    create = document["paths"]["/samples"]["post"]
    assert [parameter["name"].lower() for parameter in create["parameters"]] == ["idempotency-key"]
    batch = document["components"]["schemas"]["Body_create_samples_samples_batch_post"]
    assert batch["properties"]["metadata"]["examples"]
    request = document["components"]["schemas"]["ErasureRequest"]
    assert request["oneOf"] == [{"required": ["samples"]}, {"required": ["owner"]}]
    (example,) = request["examples"]
    assert client.post("/erasures", json=example).status_code in (200, 404)  # nothing is erased by it
    assert "--data-binary" in document["info"]["description"]


def test_what_garbled_slow_and_large_bodies_are_told_is_documented(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                assert {"400", "408", "413"} <= set(operation["responses"]), (method, path)
    assert "409" in paths["/predict"]["post"]["responses"]


def test_a_setting_closes_the_page_and_the_description(tmp_path: Path) -> None:
    with served(tmp_path, http={"docs": False}) as front, front.client() as client:
        for path in ("/docs", "/docs/start.js", "/openapi.json", "/docs-static/swagger-ui-bundle.js", "/redoc"):
            assert client.get(path).status_code == 404, path
        assert client.get("/status").status_code == 200
        assert "/samples" in front.app.openapi()["paths"]


# -------------------------------------------------------------------------------------------------------------- proxies


def test_behind_a_proxy_s_prefix_everything_is_found(tmp_path: Path) -> None:
    with served(tmp_path, http={"root_path": "/oubli"}) as front, front.client() as client:
        words = {"label": "a", "owner": "ada"}
        for seen in ("", "/oubli"):  # a proxy that takes the prefix away, and one that does not
            sample = client.post(f"{seen}/samples", content=picture(), headers=RAW, params=words)
            assert sample.status_code == 201, sample.text
            assert sample.headers["location"] == f"/oubli/samples/{sample.json()['id']}"
            assert client.get(f"{seen}/samples/{sample.json()['id']}").status_code == 200
            erasure = client.delete(f"{seen}/samples/{sample.json()['id']}")
            assert erasure.headers["location"] == f"/oubli/erasures/{erasure.json()['id']}"
            key = client.post(f"{seen}/keys", json={"scopes": ["read"]})
            assert key.headers["location"] == f"/oubli/keys/{key.json()['id']}"
            key = client.post(f"{seen}/keys/{key.json()['id']}/rotate")
            assert key.headers["location"] == f"/oubli/keys/{key.json()['id']}"
            assert client.get(f"{seen}/samples/batch").headers["allow"] == "POST"
            assert client.put(f"{seen}/samples").headers["allow"] == "GET, POST"
            assert 'src="/oubli/docs/start.js"' in client.get(f"{seen}/docs").text
            assert client.get(f"{seen}/openapi.json").json()["servers"] == [{"url": "/oubli"}]
            script = client.get(f"{seen}/docs-static/swagger-ui.css")
            assert (script.status_code, script.headers["cache-control"]) == (200, "no-cache")
        assert client.get("/oublix/status").status_code == 404


@pytest.mark.parametrize("path", ["oubli", "/oubli/", "/", "/a b", "/a?b", "//a"])
def test_a_prefix_that_is_none_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("OUBLI_HTTP__ROOT_PATH", path)
    with pytest.raises(Misconfigured, match="root_path"):
        load_settings()


def test_the_description_is_the_same_wherever_it_is_shown(tmp_path: Path) -> None:
    plain, hidden = (
        create_app(settings(tmp_path, http=http)).openapi() for http in ({}, {"docs": False, "root_path": "/oubli"})
    )
    assert plain == hidden

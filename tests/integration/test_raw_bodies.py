"""A single image as the body itself, beside multipart."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.integration.harness import Picture, Service, assert_problem, until, upload

KINDS = ["application/octet-stream", "image/png", "Image/PNG; charset=binary", "image/anything"]


def send(service: Service, path: str, data: bytes, kind: str | None = KINDS[0], **query: Any) -> Any:
    headers = {"Content-Type": kind} if kind is not None else {}
    return service.client.post(path, content=data, params=query, headers=headers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_image_is_a_sample_like_any_other(
    service: Service, pictures: list[Picture], owner: str, kind: str
) -> None:
    answer = send(service, "/samples", pictures[0].data, kind, label=" plane ", owner=owner)
    assert answer.status_code == 201, answer.text
    sample = answer.json()
    assert answer.headers["Location"] == f"/samples/{sample['id']}"
    assert (sample["label"], sample["owner"]) == ("plane", owner)
    files = upload("image", [pictures[0]])
    twin = service.client.post("/samples", files=files, data={"label": "plane", "owner": owner}).json()
    assert twin["digest"] == sample["digest"]


def test_a_raw_image_is_answered_as_in_a_form(service: Service, pictures: list[Picture], owner: str) -> None:
    service.contribute(pictures[:6], owner)

    def answers() -> list[tuple[str, list[dict[str, Any]]]]:
        raw = send(service, "/predict", pictures[0].data, top_k=2)
        form = service.client.post("/predict", files=upload("image", [pictures[0]]), params={"top_k": 2})
        assert raw.status_code == form.status_code == 200, raw.text
        both = (raw.json()["predictions"], form.json()["predictions"])
        return [(answer["label"], answer["scores"]) for (answer,) in both]

    until(lambda: len(set(map(repr, answers()))) == 1)  # a head that knows more may come between two questions


def test_one_key_makes_one_sample_whichever_way_it_came(service: Service, pictures: list[Picture], owner: str) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    data = pictures[1].data
    query = {"label": "plane", "owner": owner}
    first = service.client.post(
        "/samples", content=data, params=query, headers={**headers, "Content-Type": "image/png"}
    )
    again = service.client.post("/samples", files={"image": ("image", data)}, data=query, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
def test_a_body_of_another_kind_is_no_image(
    service: Service, pictures: list[Picture], owner: str, kind: str | None
) -> None:
    data = pictures[0].data
    assert_problem(send(service, "/samples", data, kind, label="plane", owner=owner), 422)
    assert_problem(send(service, "/predict", data, kind), 422)
    assert service.pages("/samples", owner=owner) == []


@pytest.mark.parametrize(("data", "status"), [(b"", 415), (b"no image", 415), (bytes(40_000_000), 413)])
def test_what_cannot_be_an_image_is_refused(service: Service, owner: str, data: bytes, status: int) -> None:
    assert_problem(send(service, "/samples", data, label="plane", owner=owner), status)
    assert_problem(send(service, "/predict", data), status)
    assert service.pages("/samples", owner=owner) == []


@pytest.mark.parametrize("query", [{}, {"label": "plane"}, {"owner": "o"}, {"label": "", "owner": "o"}])
def test_what_is_not_said_of_a_raw_image_is_named(
    service: Service, pictures: list[Picture], query: dict[str, str]
) -> None:
    answer = send(service, "/samples", pictures[0].data, **query)
    assert_problem(answer, 422)
    wrong = {name for name in ("label", "owner") if not query.get(name)}
    assert {error["field"] for error in answer.json()["errors"]} == {f"query.{name}" for name in wrong}


def test_a_form_is_not_described_by_its_query(service: Service, pictures: list[Picture]) -> None:
    files = upload("image", [pictures[0]])
    answer = service.client.post("/samples", files=files, params={"label": "plane", "owner": "somebody"})
    assert_problem(answer, 422)
    assert {error["field"] for error in answer.json()["errors"]} == {"body.label", "body.owner"}


@pytest.mark.parametrize("path", ["/samples", "/predict"])
def test_both_kinds_of_body_are_documented(service: Service, path: str) -> None:
    document = service.client.get("/openapi.json").json()
    body = document["paths"][path]["post"]["requestBody"]
    assert body["required"] is True
    assert set(body["content"]) == {"multipart/form-data", "application/octet-stream", "image/*"}
    form = body["content"]["multipart/form-data"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert "image" in document["components"]["schemas"][form]["required"]
    assert "--data-binary" in document["info"]["description"]

"""Owners and labels at every entrance: one spelling each, refused in words, and described with real examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tests.integration.harness import PROBLEM, Picture, Service, assert_problem, upload

CAT, TAC = "ch\u00e2t", "cha\u0302t"  # composed, decomposed
FORMS = ("form", "raw", "batch")


@pytest.fixture
def jose(service: Service) -> Iterator[tuple[str, str]]:
    """An owner whom no other test knows, composed and decomposed."""
    tail = uuid4().hex
    yield f"Jos\u00e9 {tail}", f"Jose\u0301 {tail}"
    service.client.delete("/owners/" + quote(f"Jos\u00e9 {tail}"))


def give(service: Service, how: str, picture: Picture, owner: str, label: str = CAT, **headers: Any) -> httpx.Response:
    """By each entrance; what a batch says of its one image is answered as if that had come alone."""
    said = {"label": label, "owner": owner}
    if how == "raw":
        kind = {"Content-Type": picture.media_type, **headers}
        return service.client.post("/samples", content=picture.data, params=said, headers=kind)
    if how == "form":
        return service.client.post("/samples", files=upload("image", [picture]), data=said, headers=headers)
    answer = service.client.post(
        "/samples/batch", files=upload("images", [picture]), data={"metadata": json.dumps([said])}, headers=headers
    )
    (item,) = answer.json()["items"]
    found = item.get("sample") or item["problem"]
    kind = {"X-Request-Id": answer.headers["X-Request-Id"], **({"Content-Type": PROBLEM} if "problem" in item else {})}
    return httpx.Response(item["status"], json=found, headers=kind, request=answer.request)


def test_both_spellings_are_one_owner_and_one_label_at_every_entrance(
    service: Service, pictures: list[Picture], jose: tuple[str, str]
) -> None:
    composed, decomposed = jose
    for number, how in enumerate(FORMS):
        for owner, label in ((composed, TAC), (decomposed, CAT)):
            answer = give(service, how, pictures[number], owner, label)
            assert answer.status_code == 201, answer.text
            assert (answer.json()["owner"], answer.json()["label"]) == (composed, CAT)
    for owner in jose:
        assert len(service.pages("/samples", owner=owner)) == 6
        assert len(service.pages("/samples", owner=owner, label=TAC)) == 6
        quoted = service.client.post("/erasures", json={"owner": owner, "validate_only": True})
        assert quoted.json()["samples"] == 6
    labels = [entry["label"] for entry in service.client.get("/labels").json()]
    assert CAT in labels
    assert TAC not in labels
    erased = service.client.delete(f"/owners/{quote(decomposed)}")
    assert (erased.status_code, erased.json()["subject"], erased.json()["samples"]) == (202, {"owner": composed}, 6)
    assert service.pages("/samples", owner=composed) == []


def test_both_spellings_of_a_request_are_one(service: Service, pictures: list[Picture], jose: tuple[str, str]) -> None:
    token = uuid4().hex
    keys = [f"{name} {token}".encode() for name in ("Jos\u00e9", "Jose\u0301")]
    given = [
        give(service, "form", pictures[0], owner, **{"Idempotency-Key": key})
        for owner, key in zip(jose, keys, strict=True)
    ]
    assert [answer.status_code for answer in given] == [201, 201]
    assert given[0].json()["id"] == given[1].json()["id"]
    erased = [
        service.client.post("/erasures", json={"owner": owner}, headers={"Idempotency-Key": f"erase {token}"})
        for owner in jose
    ]
    assert [answer.status_code for answer in erased] == [202, 202]
    assert erased[0].json()["id"] == erased[1].json()["id"]


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("a\0b", "U+0000 (a control character)"),
        ("a\u202eb", "U+202E (a bidirectional override)"),
        ("a\u2028b", "U+2028 (a line separator)"),
        ("a\u0378b", "U+0378 (not assigned"),
        ("x" * 129, "1 to 128 characters"),
        (".", "DELETE /owners/"),
        ("..", "DELETE /owners/"),
    ],
    ids=lambda text: ascii(text)[:12],
)
def test_what_no_owner_can_be_is_refused_in_words(
    service: Service, pictures: list[Picture], how: str, owner: str, words: str
) -> None:
    answer = give(service, how, pictures[0], owner)
    problem = assert_problem(answer, 422, words)
    if how != "batch":
        assert [error["field"] for error in problem["errors"]] == [{"form": "body.owner", "raw": "query.owner"}[how]]


@pytest.mark.parametrize("between", ["\u3000", "\u200c", "\u200d", "\u00a0"], ids=ascii)
def test_what_other_scripts_need_is_accepted(
    service: Service, pictures: list[Picture], owner: str, between: str
) -> None:
    name = f"{owner}{between}x"
    answer = give(service, "form", pictures[0], name, f"a{between}b")
    assert answer.status_code == 201, answer.text
    assert (answer.json()["owner"], answer.json()["label"]) == (name, f"a{between}b")
    assert service.client.delete(f"/owners/{quote(name)}").status_code == 202


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/owners/Jos%E9"), ("GET", "/samples?owner=Jos%E9"), ("POST", "/samples?owner=Jos%E9&label=a")],
)
def test_what_is_not_utf8_is_not_taken_for_something_else(
    service: Service, pictures: list[Picture], method: str, path: str
) -> None:
    body = {"content": pictures[0].data, "headers": {"Content-Type": "image/png"}} if method == "POST" else {}
    assert_problem(service.client.request(method, path, **body), 422, "not in UTF-8")


def test_dots_can_be_looked_for(service: Service) -> None:
    """An earlier release may have taken them in: they are erased by `POST /erasures`."""
    for dots in (".", ".."):
        assert service.pages("/samples", owner=dots) == []
        assert_problem(service.client.post("/erasures", json={"owner": dots}), 404)


def test_case_counts(service: Service, pictures: list[Picture], owner: str) -> None:
    assert give(service, "form", pictures[0], owner).status_code == 201
    assert service.pages("/samples", owner=owner.upper()) == []
    assert_problem(service.client.delete(f"/owners/{owner.upper()}"), 404)


def test_what_one_owner_holds_tells_another_nothing(service: Service, pictures: list[Picture], owner: str) -> None:
    def statuses(name: str) -> list[int]:
        return [give(service, "form", pictures[7], name).status_code for _ in range(8)]

    mine = statuses(owner)
    assert mine == sorted(mine)
    assert set(mine) == {201, 409}
    try:
        assert statuses(f"{owner} too") == mine
    finally:
        service.client.delete(f"/owners/{quote(owner + ' too')}")


def test_texts_are_described_with_examples_of_what_is_meant(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    asked = {
        name: body
        for name, body in schemas.items()
        if name.startswith("Body_") or name in ("ErasureRequest", "Sample", "LabelCount")
    }
    found = [
        (name, field, said)
        for name, body in asked.items()
        for field, said in body["properties"].items()
        if field in ("owner", "label", "metadata")
    ]
    assert len(found) >= 7
    for name, field, said in found:
        assert said["examples"], (name, field)
        assert "string" not in said["examples"]
    (metadata,) = {json.dumps(said["examples"]) for _, field, said in found if field == "metadata"}
    assert [set(entry) for entry in json.loads(json.loads(metadata)[0])] == [{"label", "owner"}]
    owners = [said["description"] for name, field, said in found if field == "owner" and name != "Sample"]
    assert all("Case counts" in words and "NFC" in words for words in owners)
    (path,) = document["paths"]["/owners/{owner}"]["delete"]["parameters"]
    assert "Case counts" in path["description"]

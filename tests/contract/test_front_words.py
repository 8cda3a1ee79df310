"""Nothing is ignored that a caller says: what is not known by name, or is said twice, is refused and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.app import create_app
from service.api.threads import Threads
from service.decoding.decoders import Decoders
from service.serving.batcher import Batcher
from service.settings import Settings
from tests.commands import command
from tests.front import NOBODY, Front, bearer, head, heard, picture

DESCRIBED = {
    (method, path): operation
    for path, operations in create_app(Settings(backbone="tiny")).openapi()["paths"].items()
    for method, operation in operations.items()
}
PAGES = [("get", "/docs"), ("get", "/docs/start.js"), ("get", "/openapi.json")]
OPERATIONS = [*DESCRIBED, *PAGES]
BODILESS = [*(one for one, operation in DESCRIBED.items() if "requestBody" not in operation), *PAGES]


def named(answer: httpx.Response) -> list[str]:
    """The fields that a 422 names."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["field"] for error in answer.json()["errors"]]


def filled(path: str) -> str:
    return path.replace("{owner}", "ada").replace("{sample_id}", NOBODY).replace("{", "").replace("}", "")


def count_samples(client: httpx.Client) -> int:
    return int(client.get("/status").json()["samples"])


# ------------------------------------------------------------------------------------------------- query parameters


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_unknown_query_parameter_is_named(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, filled(path), params={"onwer": "ada"})
    assert named(answer) == ["query.onwer"]
    assert "query.onwer" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [("onwer=ada", ["query.onwer"]), ("owner=ada&owner=bela", ["query.owner"]), ("limit=1&limit=1", ["query.limit"]),
     ("a=1&b=2&owner=ada", ["query.a", "query.b"]), ("Owner=ada", ["query.Owner"]), ("owner[]=ada", ["query.owner[]"]),
     ("owner;limit=1", ["query.owner;limit"]), ("=1", ["query."]), ("%00=1", ["query.\0"]), ("%ff=1", ["query.\ufffd"]),
     (f"{'a' * 5000}=1", [f"query.{'a' * 64}"])],
)  # fmt: skip
def test_what_a_list_is_asked_by_is_understood_or_refused(client: httpx.Client, query: str, fields: list[str]) -> None:
    assert named(client.get(f"/samples?{query}")) == fields


def test_a_near_miss_is_told(client: httpx.Client) -> None:
    assert "did you mean `owner`" in client.get("/samples?onwer=ada").text


def test_very_many_are_named_in_part(client: httpx.Client) -> None:
    query = "&".join(f"a{number}=1" for number in range(3_000))
    assert len(named(client.get(f"/samples?{query}"))) == 20


def test_what_is_known_is_understood(client: httpx.Client) -> None:
    for query in ("", "owner=ada", "owner=ada&label=cat&limit=3", "cluster=" + NOBODY, "&&", "owner=a%26b"):
        assert client.get(f"/samples?{query}").status_code == 200, query


# ------------------------------------------------------------------------------------------- a body where none is read


def test_most_operations_read_no_body() -> None:
    assert {("delete", "/owners/{owner}"), ("get", "/samples"), ("get", "/health/live")} < {*BODILESS}
    assert ("post", "/erasures") not in BODILESS


@pytest.mark.parametrize(("method", "path"), BODILESS)
@pytest.mark.parametrize("sent", [{"Content_Length": 23}, {"Transfer_Encoding": "chunked"}], ids=["length", "chunks"])
def test_a_body_where_none_is_read_is_refused_unread(
    front: Front, method: str, path: str, sent: dict[str, str | int]
) -> None:
    with front.connection() as connection:
        words = {"Content_Type": "application/json", **bearer(front.key)}
        connection.sendall(head(method.upper(), filled(path), **sent, **words))  # nothing of the body itself
        said = heard(connection)
        assert said.status == 422
        assert [error["field"] for error in said.problem["errors"]] == ["body"]
        assert said.headers["connection"] == "close"


def test_what_was_to_be_a_question_in_a_body_erases_nothing(client: httpx.Client) -> None:
    sample = client.post("/samples", files=[IMAGE, *SAID[:1], ("owner", (None, "asked"))]).json()
    for path in ("/owners/asked", f"/samples/{sample['id']}"):
        assert named(client.request("DELETE", path, json={"validate_only": True})) == ["body"]
    assert client.get(f"/samples/{sample['id']}").status_code == 200
    assert client.get("/erasures", params={"owner": "asked"}).json()["items"] == []
    answer = client.request("DELETE", "/owners/asked", headers={"Content-Length": "0"})  # as many clients send
    assert answer.status_code == 202


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_head_too_has_no_body(client: httpx.Client, path: str) -> None:
    assert client.request("HEAD", path, headers={"Content-Length": "0"}).status_code in (200, 503)
    assert client.request("HEAD", path, content=b"{}").status_code == 422


# ------------------------------------------------------------------------------------------------------------- forms

IMAGE = ("image", ("a.png", picture()))
SAID = [("label", (None, "cat")), ("owner", (None, "ada"))]


@pytest.mark.parametrize(
    ("parts", "fields"),
    [([IMAGE, *SAID, ("lable", (None, "x"))], ["body.lable"]),
     ([IMAGE, *SAID, ("image2", ("b.png", b"x"))], ["body.image2"]),
     ([IMAGE, IMAGE, *SAID], ["body.image"]),
     ([IMAGE, ("image", ("b.png", b"x")), *SAID], ["body.image"]),
     ([IMAGE, *SAID, ("owner", (None, "bela"))], ["body.owner"]),
     ([IMAGE, *SAID, ("label", (None, "cat"))], ["body.label"]),
     ([IMAGE, *SAID, *SAID], ["body.label", "body.owner"]),
     ([IMAGE, *SAID, ("", (None, "x"))], ["body."]),
     ([IMAGE, ("lable", (None, "cat")), ("owner", (None, "ada"))], ["body.lable"])],
)  # fmt: skip
def test_a_form_says_what_is_known_and_once(client: httpx.Client, parts: list[Any], fields: list[str]) -> None:
    before = count_samples(client)
    assert named(client.post("/samples", files=parts)) == fields
    assert count_samples(client) == before


def test_a_batch_and_a_prediction_too(client: httpx.Client) -> None:
    images, metadata = ("images", IMAGE[1]), ("metadata", (None, json.dumps([{"label": "a", "owner": "b"}])))
    assert named(client.post("/samples/batch", files=[images, metadata, metadata])) == ["body.metadata"]
    assert named(client.post("/samples/batch", files=[images, metadata, SAID[1]])) == ["body.owner"]
    assert named(client.post("/predict", files=[IMAGE, SAID[0]])) == ["body.label"]
    assert named(client.post("/predict", files=[IMAGE, ("top_k", (None, "3"))])) == ["body.top_k"]
    assert client.post("/predict", files=[IMAGE, IMAGE]).status_code == 409  # images are many; there is no sample yet


@pytest.mark.parametrize("member", ["lable", "Owner", "cluster"])
def test_metadata_says_nothing_else(client: httpx.Client, member: str) -> None:
    metadata = [{"label": "a", "owner": "b", member: "c"}]
    files = [("images", IMAGE[1]), ("metadata", (None, json.dumps(metadata)))]
    answer = client.post("/samples/batch", files=files)
    assert answer.status_code == 422
    assert member in answer.text


def test_metadata_says_nothing_twice(client: httpx.Client) -> None:
    twice = '[{"label": "a", "owner": "ada", "owner": "bela"}]'
    answer = client.post("/samples/batch", files=[("images", IMAGE[1]), ("metadata", (None, twice))])
    assert answer.status_code == 422
    assert "owner" in answer.text
    assert count_samples(client) == 0


def test_more_fields_than_any_form_has_are_not_kept(client: httpx.Client) -> None:
    answer = client.post("/predict", files=[IMAGE, *((f"f{number}", (None, "x")) for number in range(100))])
    assert answer.status_code == 400
    assert "fields" in answer.json()["detail"]


def test_what_a_form_says_is_not_said_in_the_query_as_well(client: httpx.Client) -> None:
    answer = client.post("/samples", files=[IMAGE, *SAID], params={"owner": "bela"})
    assert named(answer) == ["query.owner"]
    raw = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    assert named(client.post("/samples?label=a&owner=b&owner=c", **raw)) == ["query.owner"]
    assert named(client.post("/samples?label=a&owner=b&lable=c", **raw)) == ["query.lable"]


# -------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("body", "words"),
    [('{"owner": "ada", "reson": "x"}', "body.reson"),
     ('{"owner": "ada", "owner": "bela"}', "`owner` is given 2 times"),
     ('{"owner": "ada", "validate_only": true, "validate_only": false}', "`validate_only`"),
     ('{"owner": "ada", "a": {"b": 1, "b": 2}}', "`b`"), (f'{{"owner": "ada", "samples": ["{NOBODY}"]}}', "either"),
     ('{"owner": "ada", "samples": []}', "samples"), ('{"owner": "ada", "\\ud800": 1}', "body"),
     ('{"\\ud800": 1, "\\ud800": 2}', "`?`"), ("{}", "either"), ("{", "JSON"), ("", "body")],
)  # fmt: skip
def test_json_says_what_is_known_and_once(client: httpx.Client, body: str, words: str) -> None:
    answer = client.post("/erasures", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("value", ['"off"', '"false"', "0", "1", '"yes"', "null", '""'])
def test_what_was_to_be_a_question_erases_nothing(client: httpx.Client, value: str) -> None:
    sample = client.post("/samples", files=[IMAGE, SAID[0], ("owner", (None, "asked"))])
    assert sample.status_code == 201
    body = f'{{"owner": "asked", "validate_only": {value}}}'
    answer = client.post("/erasures", content=body, headers={"Content-Type": "application/json"})
    assert named(answer) == ["body.validate_only"]
    assert client.delete(f"/samples/{sample.json()['id']}").status_code == 202


@pytest.mark.parametrize(
    ("path", "member", "value"),
    [("/keys", "expires_at", 99_999_999_999), ("/keys", "expires_at", "99999999999"), ("/keys", "expires_at", True),
     ("/keys", "expires_at", "-5"), ("/keys", "name", 5),
     (f"/keys/{NOBODY}/rotate", "overlap_seconds", "60"), (f"/keys/{NOBODY}/rotate", "overlap_seconds", True),
     (f"/keys/{NOBODY}/rotate", "expires_at", 99_999_999_999)],
)  # fmt: skip
def test_a_member_of_another_type_is_not_taken_for_what_it_resembles(
    client: httpx.Client, path: str, member: str, value: Any
) -> None:
    said = {"scopes": ["read"]} if path == "/keys" else {}
    assert named(client.post(path, json={**said, member: value})) == [f"body.{member}"]


@pytest.mark.parametrize("key", ["", "a" * 256, "\u202e".encode()])
@pytest.mark.parametrize("said", [{"owner": "nobody", "validate_only": True}, {"owner": "nobody"}])
def test_an_idempotency_key_that_is_none_is_refused_also_of_a_question(
    client: httpx.Client, said: dict[str, Any], key: str | bytes
) -> None:
    answer = client.post("/erasures", json=said, headers={"Idempotency-Key": key})
    assert named(answer) == ["header.idempotency-key"]


@pytest.mark.parametrize("count", ["2", True, 1.0])
def test_nor_is_one_of_metadata(client: httpx.Client, count: Any) -> None:
    metadata = json.dumps([{"label": "a", "owner": "b", "unless_held": count}])
    answer = client.post("/samples/batch", files=[("images", IMAGE[1])], data={"metadata": metadata})
    assert answer.status_code == 422
    assert "unless_held" in answer.json()["detail"]


@pytest.mark.parametrize("count", [21, 100])
def test_of_very_many_wrong_ones_some_are_named(client: httpx.Client, count: int) -> None:
    unknown = json.dumps({f"a{number}": 1 for number in range(count)})
    for body in (unknown, json.dumps({"samples": ["x"] * 10_000})):
        answer = client.post("/erasures", content=body, headers={"Content-Type": "application/json"})
        assert len(named(answer)) == 20
        assert len(answer.content) < 5_000


def test_an_object_of_more_members_than_any_has_is_not_looked_through(client: httpx.Client) -> None:
    body = json.dumps({"owner": "ada"} | {f"a{number}": 1 for number in range(100)})
    answer = client.post("/erasures", content=body, headers={"Content-Type": "application/json"})
    assert "more than 100 members" in answer.json()["detail"]
    assert len(named(answer)) == 1


def test_metadata_of_more_images_than_were_sent_is_not_looked_through(client: httpx.Client) -> None:
    metadata = {"metadata": json.dumps([{}] * 100_000)}
    answer = client.post("/samples/batch", files=[("images", IMAGE[1])], data=metadata)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "metadata describes 100000 images, and 1 were sent."


@pytest.mark.parametrize("body", [b'{"owner": "\xff"}', b"[" * 100_000, b'{"owner": ' + b"1" * 5_000 + b"}"])
def test_what_is_no_json_at_all_is_400(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/erasures", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


# --------------------------------------------------------------------------------------------------------- erasures


def test_erasures_are_found_by_their_owner(client: httpx.Client) -> None:
    for owner in ("ada", "bela"):
        for _ in range(2):
            sent = client.post("/samples", files=[IMAGE, SAID[0], ("owner", (None, owner))])
            assert sent.status_code == 201, sent.text
            assert client.delete(f"/owners/{owner}").status_code == 202
    single = client.post("/samples", files=[IMAGE, *SAID]).json()
    assert client.delete(f"/samples/{single['id']}").status_code == 202

    def found(**query: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = client.get("/erasures", params=query).json()["items"]
        return items

    assert len(found()) >= 5
    assert [one["subject"] for one in found(owner="ada")] == [{"owner": "ada"}] * 2
    assert [one["subject"] for one in found(owner=" ada ")] == [{"owner": "ada"}] * 2  # blanks, as at intake
    assert client.post("/samples", files=[IMAGE, SAID[0], ("owner", (None, "Jos\u00e9"))]).status_code == 201
    assert client.delete("/owners/Jos\u00e9").status_code == 202
    for spelling in ("Jos\u00e9", "Jose\u0301"):  # NFC, and NFD as a Mac writes it
        assert [one["subject"] for one in found(owner=spelling)] == [{"owner": "Jos\u00e9"}]
    assert found(owner="nobody") == []
    assert found(owner="ada", state="failed") == []
    page = client.get("/erasures?owner=ada&limit=1").json()
    rest = client.get("/erasures", params={"owner": "ada", "limit": 1, "cursor": page["next_cursor"]}).json()
    assert [*page["items"], *rest["items"]] == found(owner="ada")
    assert client.get("/erasures?owner=%00").status_code == 422


# ---------------------------------------------------------------------------------------------------------- callers


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer   "])
def test_one_key_is_one_caller_however_its_scheme_is_spelt(front: Front, client: httpx.Client, scheme: str) -> None:
    """What it repeats is repeated, and it has one turn among others at the decoders."""
    once = {"Idempotency-Key": f"as{len(scheme)}{scheme.strip()}"}
    first = client.post("/samples", files=[IMAGE, *SAID], headers=once)
    spelt = {**once, "Authorization": f"{scheme}{front.key}"}
    again = client.post("/samples", files=[IMAGE, *SAID], headers=spelt)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]


def test_two_keys_are_two_callers_at_every_queue(
    front: Front, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own turns: at the threads of intake, at the decoders and in the batcher."""
    seen: list[tuple[str, str]] = []

    def watched(kind: type, name: str) -> Callable[..., Any]:
        real = getattr(kind, name)

        def spy(*given: Any, **named: Any) -> Any:
            seen.append((name, named["caller"]))
            return real(*given, **named)

        return spy

    for kind, name in ((Threads, "run"), (Decoders, "decode"), (Batcher, "expect")):
        monkeypatch.setattr(kind, name, watched(kind, name))
    metadata = ("metadata", (None, json.dumps([{"label": "cat", "owner": "ada"}])))
    raw = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    sent: list[tuple[str, dict[str, Any], set[str]]] = [
        ("/samples", {"files": [IMAGE, *SAID]}, {"run", "decode", "expect"}),
        ("/samples?label=cat&owner=ada", raw, {"run", "decode", "expect"}),
        ("/samples/batch", {"files": [("images", IMAGE[1]), metadata]}, {"run", "decode", "expect"}),
        ("/predict", {"files": [IMAGE]}, {"decode", "expect"}),
        ("/predict", raw, {"decode", "expect"}),
    ]
    with front.client(front.make_key("samples", "predict")) as other:
        for path, request, queues in sent:
            callers: list[set[tuple[str, str]]] = []
            for each in (client, other):
                seen.clear()
                # 409: the seventh copy of one picture of one owner; 503: nothing is trained here
                assert each.post(path, **request).status_code in (200, 201, 409, 503), path
                assert {name for name, _ in seen} == queues, path
                assert len({caller for _, caller in seen}) == 1, path
                callers.append({*seen})
            assert not callers[0] & callers[1], path


def test_the_command_line_s_owners_have_one_spelling_too(
    front: Front, client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, apart = "Zo\u00e9", "Zoe\u0301"
    monkeypatch.setenv("OUBLI_KEY", front.key)
    folder = tmp_path / "album" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(1))
    done = command("ingest", tmp_path / "album", "--owner", apart, "--url", front.url)
    assert done.code == 0, done
    (sample,) = client.get("/samples", params={"owner": composed}).json()["items"]
    assert sample["owner"] == composed
    assert "1 held already" in command("ingest", tmp_path / "album", "--owner", composed, "--url", front.url).out
    command("erase", "--owner", apart, "--owner", composed, "--yes", "--no-wait", "--url", front.url)
    assert client.get("/samples", params={"owner": composed}).json()["items"] == []
    assert len(client.get("/erasures", params={"owner": apart}).json()["items"]) == 1  # of both spellings together

"""API keys over HTTP and by the command line: made, listed, rotated, revoked; what is refused is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.integration.harness import Done, Service, assert_problem, oubli, until

SOME_ID = "01999999-0000-7000-8000-000000000000"
REFUSED = re.compile(r'^oubli_authentication_failures_total\{reason="(\w+)"\} (\S+)$', re.MULTILINE)


def make(service: Service, *scopes: str, **more: Any) -> dict[str, Any]:
    """A key by HTTP; what was answered."""
    answer = service.client.post("/keys", json={"scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/keys/{answer.json()['id']}"
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


def listed(service: Service) -> dict[str, dict[str, Any]]:
    return {key["id"]: key for key in service.pages("/keys")}


def status_for(service: Service, secret: str, path: str = "/labels") -> int:
    with service.client_with(secret) as client:
        return client.get(path).status_code


def command(service: Service, *arguments: str) -> Done:
    return oubli("keys", *arguments, "--data", service.data)


# ---------------------------------------------------------------------------------------------------------- by HTTP


def test_a_key_is_made_listed_used_and_revoked(service: Service) -> None:
    end = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    made = make(service, "read", "predict", name="camera [/] at the door", expires_at=end.isoformat())
    assert UUID(made["id"]).version == 7
    assert made["scopes"] == ["predict", "read"]
    assert datetime.fromisoformat(made["expires_at"]) == end
    assert (made["last_used_at"], made["revoked_at"], made["replaced_by"]) == (None, None, None)
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert listed(service)[made["id"]] == shown
    assert service.client.get(f"/keys/{made['id']}").json() == shown

    assert status_for(service, made["secret"]) == 200
    used = until(lambda: service.client.get(f"/keys/{made['id'][:8]}").json()["last_used_at"], what="its use on record")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(used)) < timedelta(minutes=5)

    answer = service.client.delete(f"/keys/{made['id']}")
    assert answer.status_code == 200
    assert answer.json()["revoked_at"]
    assert status_for(service, made["secret"]) == 401
    assert service.client.delete(f"/keys/{made['id']}").json() == answer.json()


def test_a_rotated_key_goes_on_beside_its_successor_and_one_without_overlap_does_not(service: Service) -> None:
    first = make(service, "read", name="rotated")
    answer = service.client.post(f"/keys/{first['id']}/rotate")
    assert answer.status_code == 201, answer.text
    second = answer.json()
    assert (second["name"], second["scopes"]) == ("rotated", ["read"])
    old = service.client.get(f"/keys/{first['id']}").json()
    assert old["replaced_by"] == second["id"]
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    assert [status_for(service, key["secret"]) for key in (first, second)] == [200, 200]

    answer = service.client.post(f"/keys/{second['id'][:8]}/rotate", json={"overlap_seconds": 0})
    assert answer.status_code == 201, answer.text
    assert [status_for(service, key["secret"]) for key in (second, answer.json())] == [401, 200]
    assert_problem(service.client.post(f"/keys/{second['id']}/rotate"), 409, "rotated already")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "read"},
        {"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"scopes": ["read"], "expires_at": "2100-01-01T00:00:00"},
        {"scopes": ["read"], "expires_at": "9999-12-31T23:59:59-12:00"},
        {"scopes": ["read"], "name": "x" * 129},
        {"scopes": ["read"], "name": "a\nb"},
        {"scopes": ["read"], "nmae": "x"},
    ],
    ids=json.dumps,
)
def test_what_no_key_can_be_made_of_is_refused(service: Service, body: dict[str, Any]) -> None:
    before = set(listed(service))
    assert_problem(service.client.post("/keys", json=body), 422)
    assert set(listed(service)) == before


def test_what_is_asked_of_no_key_is_refused(service: Service) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        assert_problem(service.client.request(method, f"/keys/{SOME_ID}{path}"), 404, SOME_ID)
        assert_problem(service.client.request(method, f"/keys/x{path}"), 422)
    key = make(service, "read")
    for overlap in (-1, 90 * 86_400 + 1, "soon"):
        assert_problem(service.client.post(f"/keys/{key['id']}/rotate", json={"overlap_seconds": overlap}), 422)


def test_only_the_scope_admin_looks_after_keys(service: Service) -> None:
    everything_else = make(service, "samples", "predict", "erase", "read")
    with service.client_with(everything_else["secret"]) as client, service.client_with(None) as stranger:
        for method, path in (
            ("POST", "/keys"), ("GET", "/keys"), ("GET", f"/keys/{SOME_ID}"), ("DELETE", f"/keys/{SOME_ID}"),
            ("POST", f"/keys/{SOME_ID}/rotate"),
        ):  # fmt: skip
            body = {"json": {"scopes": ["admin"]}} if path == "/keys" and method == "POST" else {}
            assert_problem(client.request(method, path, **body), 403, "admin")
            assert_problem(stranger.request(method, path, **body), 401)


def test_the_last_admin_key_is_not_revoked_by_http(service: Service) -> None:
    (own,) = [key for key in listed(service).values() if "admin" in key["scopes"] and not key["revoked_at"]]
    assert_problem(service.client.delete(f"/keys/{own['id']}"), 409, "last valid key")
    assert status_for(service, service.key) == 200


# --------------------------------------------------------------------------------------------------- by command line


def test_the_command_line_makes_rotates_and_revokes_what_http_knows(service: Service) -> None:
    created = command(service, "create", "--scopes", "read", "--name", "by [hand]", "--expires-in", "90d")
    secret = created.out.strip()
    key_id = created.err.split()[0]
    assert created.out.count("\n") == 1
    assert status_for(service, secret) == 200
    key = service.client.get(f"/keys/{key_id}").json()
    life = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert abs(life - timedelta(days=90)) < timedelta(minutes=1)

    rotated = command(service, "rotate", key_id[:8], "--overlap", "0")
    assert rotated.code == 0, rotated.err
    assert [status_for(service, each) for each in (secret, rotated.out.strip())] == [401, 200]

    successor = rotated.err.split()[0]
    assert command(service, "revoke", successor[:8]).code == 0
    assert status_for(service, rotated.out.strip()) == 401
    assert service.client.get(f"/keys/{successor}").json()["revoked_at"]


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_a_list_cuts_no_id_however_narrow_the_terminal(service: Service, columns: str) -> None:
    make(service, "read", "samples", "predict", "erase", name=f"[bold] {uuid4()}")
    found = oubli("keys", "list", "--data", service.data, env={"COLUMNS": columns})
    assert found.code == 0, found.err
    for key in listed(service).values():
        assert key["id"] in found.out
        assert key["name"] in found.out
    as_json = json.loads(command(service, "list", "--json").out)
    assert {key["id"] for key in as_json} == set(listed(service))
    assert all("secret" not in key and "digest" not in key for key in as_json)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "--scopes", "everything"), "Unknown scopes: everything"),
        (("create", "--scopes", "read", "--expires-in", "soon"), "'soon' is no span of time"),
        (("create", "--scopes", "read", "--expires-in", "0"), "expires_at"),
        (("create", "--scopes", "read", "--expires-in", "999999999d"), "expires"),
        (("rotate", SOME_ID), "There is no key"),
        (("rotate", SOME_ID, "--overlap", "91d"), "90 days at most"),
        (("revoke", "0199999"), "8 characters"),
        (("revoke", "[/]"), "There is no key [/]"),
    ],
)
def test_what_the_command_line_cannot_do_it_says_in_a_line(
    service: Service, arguments: tuple[str, ...], words: str
) -> None:
    done = command(service, *arguments)
    assert done.code == 1, done
    assert done.err.startswith("oubli: ")
    assert words in done.err
    assert len(done.err.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- what is told


@pytest.fixture
def refused(service: Service) -> Iterator[dict[str, int]]:
    """How often keys are refused during a test, by reason; to be looked at after it."""

    def counted() -> dict[str, int]:
        return {reason: int(float(count)) for reason, count in REFUSED.findall(service.client.get("/metrics").text)}

    before, rises = counted(), dict[str, int]()
    yield rises
    assert {reason: count - before[reason] for reason, count in counted().items()} == rises


def test_refusals_are_counted_by_reason_alone(service: Service, refused: dict[str, int]) -> None:
    reader, expiring = make(service, "predict"), make(service, "read")
    service.client.post(f"/keys/{expiring['id']}/rotate", json={"overlap_seconds": 0})
    assert httpx.get(f"{service.url}/labels").status_code == 401
    assert status_for(service, "oubli_guess") == status_for(service, "oubli_guess", "/metrics") == 401
    assert status_for(service, expiring["secret"]) == 401
    assert status_for(service, reader["secret"]) == status_for(service, reader["secret"], "/metrics") == 403
    refused.update(missing=1, unknown=2, expired=1, scope=2)
    assert "guess" not in service.client.get("/metrics").text


def test_no_secret_is_in_the_log(service: Service) -> None:
    made = make(service, "read")
    rotated = service.client.post(f"/keys/{made['id']}/rotate").json()
    status_for(service, "oubli_wrong_secret")
    until(lambda: f"is rotated to {rotated['id']}" in service.log, what="a line for the rotation")
    assert f"key {made['id']} is made" in service.log
    for secret in (made["secret"], rotated["secret"], service.key, "oubli_wrong_secret"):
        assert secret not in service.log

"""Who may not is refused before a byte of body is read; who may, sends so much and no more, and not too slowly."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute

from service.api.app import ROUTES
from service.api.front import FrontRoute
from tests.front import NOBODY, Front, bearer, drips_until_closed, head, heard, is_closed, picture, served
from tests.integration.harness import until

JSON, FORM, RAW = "application/json", "multipart/form-data; boundary=cut", "image/png"
LINES = "application/x-www-form-urlencoded"
BODIES = [("/erasures", JSON), ("/samples", FORM), ("/samples", RAW), ("/samples", LINES), ("/samples/batch", FORM),
          ("/predict", FORM), ("/predict", RAW), ("/keys", JSON)]  # fmt: skip
FRONT = {"http": {"max_body_bytes": 2_000}, "intake": {"max_bytes": 20_000, "max_request_bytes": 300_000}}
SINGLE = 120_000  # a form with one image: what is beside the image counts too
LIMITS = [("/erasures", JSON, 2_000), ("/samples", JSON, 2_000), ("/samples", LINES, 2_000), ("/samples", FORM, SINGLE),
          ("/samples", RAW, 20_000), ("/samples/batch", FORM, 300_000), ("/samples/batch", RAW, 2_000),
          ("/predict", FORM, 300_000), ("/predict", RAW, 20_000), ("/predict", LINES, 2_000),
          ("/keys", JSON, 2_000), (f"/keys/{NOBODY}/rotate", JSON, 2_000)]  # fmt: skip


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Has little patience."""
    limits = {"idle_seconds": 0.5, "min_bytes_per_second": 100_000}
    with served(tmp_path_factory.mktemp("hasty"), http=limits) as front:
        yield front


# -------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(("path", "kind"), [*BODIES, (f"/keys/{NOBODY}/rotate", JSON)])
def test_a_key_is_asked_for_before_a_byte_of_body_is_read(front: Front, path: str, kind: str) -> None:
    with front.connection() as connection:  # of the announced body, nothing is ever sent
        connection.sendall(head("POST", path, Content_Type=kind, Content_Length=1_500))
        said = heard(connection)
        assert (said.status, said.problem["title"]) == (401, "Unauthorized")
        assert said.headers["connection"] == "close"  # what is left of the body is no request
        assert said.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("path", "kind"), [*BODIES, (f"/keys/{NOBODY}/rotate", JSON)])
def test_so_is_its_scope(front: Front, path: str, kind: str) -> None:
    key = front.make_key("read")
    with front.connection() as connection:
        connection.sendall(head("POST", path, Content_Type=kind, Transfer_Encoding="chunked", **bearer(key)))
        assert heard(connection).status == 403


def test_who_waits_for_consent_is_refused_without_it(front: Front) -> None:
    waits = {"Content_Type": JSON, "Content_Length": 1_500, "Expect": "100-continue"}
    with front.connection() as connection:
        connection.sendall(head("POST", "/erasures", **waits))
        assert heard(connection).status == 401
        assert is_closed(connection)
    with front.connection() as connection:
        connection.sendall(head("POST", "/erasures", **waits, **bearer(front.key)))
        assert heard(connection).status == 100


def test_who_is_refused_while_sending_reads_why(front: Front) -> None:
    """A connection that is closed while its client writes would be reset, and the answer lost."""
    with front.stranger() as stranger:
        for size in (1_000, 4_000_000):
            assert stranger.post("/samples", content=bytes(size), headers={"Content-Type": RAW}).status_code == 401
    with front.client() as client:
        assert client.post("/samples", content=bytes(4_000_000), headers={"Content-Type": RAW}).status_code == 413


def test_every_route_with_a_key_is_behind_the_front(front: Front) -> None:
    """... and a route of another kind would still ask for it."""
    routes = {route.path_format: route for one in ROUTES for route in one.router.routes if isinstance(route, APIRoute)}
    assert routes.keys() >= front.app.openapi()["paths"].keys()
    assert [path for path, route in routes.items() if not isinstance(route, FrontRoute)] == []
    for path, operations in front.app.openapi()["paths"].items():
        for method, operation in operations.items():
            with front.stranger() as stranger:
                answer = stranger.request(method, path.replace("{owner}", "x"))
            assert answer.status_code == 401 if "security" in operation else answer.status_code in (200, 503), path


# ------------------------------------------------------------------------------------------------------------- sizes


def test_without_a_setting_json_is_a_megabyte_at_most(hasty: Front) -> None:
    for path in ("/erasures", "/keys", f"/keys/{NOBODY}/rotate"):
        for length, status in ((1_000_001, 413), (1_000_000, 408)):  # what may come is waited for
            with hasty.connection() as connection:
                words = {"Content_Type": JSON, "Content_Length": length, **bearer(hasty.key)}
                connection.sendall(head("POST", path, **words))
                assert heard(connection).status == status, path


@pytest.mark.parametrize(("path", "kind", "limit"), LIMITS)
def test_a_body_that_announces_too_much_is_refused_unread(front: Front, path: str, kind: str, limit: int) -> None:
    with front.connection() as connection:
        connection.sendall(head("POST", path, Content_Type=kind, Content_Length=limit + 1, **bearer(front.key)))
        said = heard(connection)
        assert (said.status, said.problem["title"]) == (413, "Content too large")
        assert f"{limit:,} bytes" in said.problem["detail"]


@pytest.mark.parametrize(("path", "kind", "limit"), [one for one in LIMITS if one[:2] in BODIES])  # others: unread
def test_so_is_one_that_comes_without_end(front: Front, path: str, kind: str, limit: int) -> None:
    sent = 0
    with front.connection() as connection:
        connection.sendall(head("POST", path, Content_Type=kind, Transfer_Encoding="chunked", **bearer(front.key)))
        start = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' if kind == FORM else b"a"
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        while sent <= limit:
            connection.sendall(b"3e8\r\n" + b"a" * 1000 + b"\r\n")
            sent += 1000
        said = heard(connection)  # though the body has not ended
        assert (said.status, said.headers["connection"]) == (413, "close")


@pytest.mark.parametrize(("path", "kind", "limit"), LIMITS)
def test_what_is_within_the_limit_is_read(front: Front, path: str, kind: str, limit: int) -> None:
    with front.client() as client:
        answer = client.post(path, content=b"a" * limit, headers={"Content-Type": kind})
    assert answer.status_code not in (401, 403, 413, 500), answer.text


# ------------------------------------------------------------------------------------------------------ slow senders


@pytest.mark.parametrize(("path", "kind"), BODIES)
def test_a_body_that_stops_is_cut_off(hasty: Front, path: str, kind: str) -> None:
    with hasty.connection() as connection:
        connection.sendall(head("POST", path, Content_Type=kind, Content_Length=1_500, **bearer(hasty.key)) + b"--cut")
        said = heard(connection)
        assert (said.status, said.problem["title"]) == (408, "Request timeout")
        assert is_closed(connection)


def test_a_body_that_drips_is_cut_off(hasty: Front) -> None:
    with hasty.connection() as connection:
        connection.sendall(head("POST", "/predict", Content_Type=RAW, Content_Length=9_000_000, **bearer(hasty.key)))
        connection.settimeout(0.05)
        dripped, answer = 0, b""
        while not answer and dripped < 1_000:
            try:
                connection.sendall(b"a")
                dripped += 1
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert b" 408 " in answer
    assert dripped < 1_000


def test_what_is_left_of_a_refused_body_holds_no_connection(front: Front) -> None:
    before = front.open_connections()
    with front.connection() as connection:
        connection.sendall(head("POST", "/predict", Content_Type=RAW, Content_Length=900_000))
        assert heard(connection).status == 401
        assert drips_until_closed(connection, b"a") < 1_000
    until(lambda: front.open_connections() <= before, seconds=30, what="a closed connection")


# ----------------------------------------------------------------------------------------------------- clients that go


@pytest.mark.parametrize(("path", "kind"), BODIES)
def test_a_client_that_goes_in_mid_upload_is_no_fault_of_ours(
    front: Front, caplog: pytest.LogCaptureFixture, path: str, kind: str
) -> None:
    before = {status: front.counted("POST", path, status) for status in (400, 500)}
    with caplog.at_level(logging.WARNING), front.connection() as connection:
        connection.sendall(head("POST", path, Content_Type=kind, Content_Length=1_500, **bearer(front.key)) + b"--cut")
        connection.close()
        until(lambda: front.counted("POST", path, 400) > before[400], what="the end of the request")
    assert front.counted("POST", path, 500) == before[500]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_comes_after_an_answer_on_the_same_connection_is_another_request(front: Front) -> None:
    body = json.dumps({"owner": "nobody"}).encode()
    request = head("POST", "/erasures", Content_Type=JSON, Content_Length=len(body), **bearer(front.key)) + body
    with front.connection() as connection:
        for _ in range(2):
            connection.sendall(request)
            said = heard(connection)
            assert (said.status, said.headers.get("connection")) == (404, None)


def test_a_picture_of_the_largest_size_is_taken_in(front: Front) -> None:
    data = picture()
    with front.client() as client:
        sent = {"image": ("a.png", data + bytes(FRONT["intake"]["max_bytes"] - len(data)))}
        answer = client.post("/samples", files=sent, data={"label": "a", "owner": "largest"})
        assert answer.status_code == 201, answer.text
        client.delete("/owners/largest")

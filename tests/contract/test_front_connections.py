"""Connections: how many there may be, and how slowly and how much a client may say before its request begins."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.front import Front, drips_until_closed, head, heard, is_closed, served
from tests.integration.harness import until

LIVE = head("GET", "/health/live")
MOST = 4


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    limits = {"max_header_bytes": 4_000, "max_headers": 20}
    with served(tmp_path_factory.mktemp("front"), http=limits) as front:
        yield front


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Has little patience, and little room."""
    limits = {"header_seconds": 0.5, "idle_seconds": 0.5, "keep_alive_seconds": 60, "max_connections": MOST}
    with served(tmp_path_factory.mktemp("hasty"), http=limits) as front:
        yield front


# ------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    "headers", [{"X_Long": "a" * 4_000}, {f"X_{n}": "a" * 30 for n in range(30)}, {f"X_{n}": "" for n in range(21)}]
)
def test_headers_beyond_measure_are_refused(front: Front, headers: dict[str, str]) -> None:
    with front.connection() as connection:
        connection.sendall(head("GET", "/health/live", **headers))
        said = heard(connection)
    assert said.status == 431
    assert said.problem["title"] == "Request header fields too large"
    assert said.headers["x-request-id"]


def test_so_is_an_address(front: Front) -> None:
    with front.connection() as connection:
        connection.sendall(head("GET", f"/samples?owner={'a' * 4_000}"))
        assert heard(connection).status == 431


@pytest.mark.parametrize(
    "start", [b"GET /health/live HTTP/1.1\r\nX-Long: ", b"GET /", b"GET /health/live HTTP/1.1\r\n"]
)
def test_headers_without_end_are_refused_while_they_come(front: Front, start: bytes) -> None:
    sent = 0
    with front.connection() as connection:
        connection.sendall(start)
        with suppress(OSError):  # it is closed on us
            while sent < 50_000_000:
                connection.sendall(b"X-More: 1\r\n" * 1000 if start.endswith(b"\n") else b"a" * 10_000)
                sent += 10_000
                time.sleep(0.002)  # it listens, deaf, for a moment: for us to read why
    assert sent < 50_000_000


def test_their_refusal_can_be_read(front: Front) -> None:
    with front.connection() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nX-Long: " + b"a" * 5_000)
        assert heard(connection).status == 431
        assert is_closed(connection)


def test_ordinary_headers_are_not(front: Front) -> None:
    with front.connection() as connection:
        for _ in range(3):  # each request is measured by itself
            connection.sendall(head("GET", "/health/live", X_Long="a" * 3_000))
            assert heard(connection).status == 200


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", b"HELLO\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_no_http_is_told_so_in_words(front: Front, garbage: bytes) -> None:
    with front.connection() as connection:
        connection.sendall(garbage)
        said = heard(connection)
        assert (said.status, said.problem["title"]) == (400, "Bad request")
        assert said.headers["cache-control"] == "no-store"
        assert is_closed(connection)


# -------------------------------------------------------------------------------------------------------------- slow


def test_a_request_that_stops_in_its_headers_is_cut_off(hasty: Front) -> None:
    with hasty.connection() as connection:
        connection.sendall(LIVE[:-4])
        said = heard(connection)
        assert (said.status, said.headers["connection"]) == (408, "close")
        assert is_closed(connection)


def test_a_connection_that_says_nothing_is_closed(hasty: Front) -> None:
    with hasty.connection() as connection:
        assert is_closed(connection)


@pytest.mark.parametrize("drop", [b"a", b"\r\n"])
def test_a_byte_now_and_then_gains_nothing(hasty: Front, drop: bytes) -> None:
    for answered in (False, True):
        with hasty.connection() as connection:
            if answered:
                connection.sendall(LIVE)
                assert heard(connection).status == 200
            if drop == b"a":
                connection.sendall(b"GET /")
            assert drips_until_closed(connection, drop) < 1_000


def test_an_idle_connection_is_kept_for_the_next_request(hasty: Front) -> None:
    """The time for headers begins with their first byte: here it has been over for long."""
    with hasty.connection() as connection:
        connection.sendall(LIVE)
        assert heard(connection).status == 200
        with hasty.connection() as other:
            assert is_closed(other)  # so long
        connection.sendall(LIVE)
        assert heard(connection).status == 200


def test_a_client_that_does_not_read_is_cut_off(hasty: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)  # elsewhere than on Linux no kernel sees to it
    until(lambda: hasty.open_connections() == 0, what="no connection")
    with hasty.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head("GET", "/docs-static/swagger-ui-bundle.js") * 20)  # 30 MB
        until(lambda: hasty.open_connections() == 1, what="a connection")
        until(lambda: hasty.open_connections() == 0, what="no connection any more")


# -------------------------------------------------------------------------------------------------------------- many


def test_one_connection_too_many_is_told_so(front: Front, hasty: Front) -> None:
    until(lambda: hasty.open_connections() == 0, what="no connection")
    with ExitStack() as stack:
        kept_open = [stack.enter_context(hasty.connection()) for _ in range(MOST)]
        for connection in kept_open:
            connection.sendall(LIVE)
            assert heard(connection).status == 200
        with hasty.connection() as refused:
            said = heard(refused)
            assert said.status == 503
            assert int(said.headers["retry-after"]) > 0
            assert "connections" in said.problem["detail"]
            assert is_closed(refused)
        kept_open[0].sendall(LIVE)  # those who were there are served
        assert heard(kept_open[0]).status == 200
        kept_open[1].close()
        until(lambda: hasty.open_connections() < MOST, what="room")
        with hasty.connection() as accepted:
            accepted.sendall(LIVE)
            assert heard(accepted).status == 200

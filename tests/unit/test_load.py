from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.serving.http import parse, request
from benchmarks.serving.load import Job, percentile, run


def _load(answer: Callable[[int], bytes], expected: list[str], *, clients: int = 1, record: bool = False) -> Any:
    """Figures of a short load on a server that answers its n-th request so."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                said = answer(count)
                count += 1
                await asyncio.sleep(0.005)
                if not said:
                    break
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def both() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            sent = request("/predict", b"x", "image/png", port=port)
            return await run(Job(port, clients, 0.4, 0.1, [(sent, expected)], record))

    return asyncio.run(both())


def _http(body: Any, status: int = 200) -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def test_right_answers_are_counted_by_images_and_timed() -> None:
    figures = _load(lambda n: _http({"predictions": [{"label": "cat"}, {"label": "dog"}]}), ["cat", "dog"], clients=2)
    assert figures["mismatches"] == 0
    assert not figures["errors"]
    assert figures["images_per_second"] == pytest.approx(2 * figures["requests"] / 0.4)
    assert 5.0 <= figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]


@pytest.mark.parametrize("labels", [["dog"], [], ["cat", "cat"]])
def test_an_answer_other_than_the_expected_is_a_mismatch(labels: list[str]) -> None:
    assert _load(lambda n: _http(labels), ["cat"])["mismatches"] > 0


def test_errors_are_counted_by_status_and_are_no_latencies() -> None:
    figures = _load(lambda n: _http({}, 503) if n % 2 else _http(["cat"]), ["cat"])
    assert set(figures["errors"]) == {"503"}
    assert figures["errors"]["503"] > 1
    assert figures["requests"] > 1
    assert figures["mismatches"] == 0


def test_a_server_that_hangs_up_is_an_error_and_is_asked_again() -> None:
    figures = _load(lambda n: b"" if n == 1 else _http(["cat"]), ["cat"])
    assert sum(figures["errors"].values()) == 1
    assert figures["requests"] > 1


def test_a_record_names_cluster_and_prompt_of_each_answer() -> None:
    row = {"label": "cat", "cluster": "c", "prompt": "p"}
    figures = _load(lambda n: _http({"predictions": [row]}), ["cat"], record=True)
    began, ended, seen = figures["events"][0]
    assert began < ended
    assert seen == [["c", "p"]]


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None


def test_answers_come_in_chunks_and_in_pieces() -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    assert all(parse(bytearray(whole[:length])) is None for length in range(len(whole)))
    found = parse(bytearray(whole + b"HTTP"))
    assert found is not None
    assert found == ((200, b"abcde"), len(whole), True)
    closing = parse(bytearray(b"HTTP/1.1 429 x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nz"))
    assert closing is not None
    assert closing[2] is False
    assert closing[0] == (429, b"z")

"""The least HTTP/1.1 client that keeps a connection: request bytes prepared beforehand, answers by length or chunks.

The same client for everyone, and cheap, since it runs on the server's own machine.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple


class Answered(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time on one connection. ConnectionError when the server hangs up before it has answered."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answered] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        found = parse(self._buffer)
        if found is None or self._waiting is None or self._waiting.done():
            return
        answer, length, stays = found
        del self._buffer[:length]
        if not stays:
            self.close()
        self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("hung up without an answer"))

    async def ask(self, request: bytes) -> Answered:
        """Send it, and wait for its answer."""
        if self.closed or self._transport is None:
            raise ConnectionError("closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()


def parse(buffer: bytearray) -> tuple[Answered, int, bool] | None:
    """An answer, the bytes it took, and whether the connection stays; None while some of it is missing."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).split(b"\r\n")
    headers = {name.lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)}
    status, begin, stays = int(first.split()[1]), end + 4, headers.get(b"connection") != b"close"
    if headers.get(b"transfer-encoding") == b"chunked":
        chunked = _chunks(buffer, begin)
        return None if chunked is None else (Answered(status, chunked[0]), chunked[1], stays)
    finish = begin + int(headers.get(b"content-length", b"0"))
    return None if len(buffer) < finish else (Answered(status, bytes(buffer[begin:finish])), finish, stays)


def _chunks(buffer: bytearray, begin: int) -> tuple[bytes, int] | None:
    """The body, and where it ends (RFC 9112, 7.1; no trailers)."""
    parts = []
    while (line := buffer.find(b"\r\n", begin)) >= 0:
        size = int(bytes(buffer[begin:line]).split(b";")[0], 16)
        begin = line + 2 + size + 2
        if len(buffer) < begin:
            return None
        if size == 0:
            return b"".join(parts), begin
        parts.append(bytes(buffer[line + 2 : line + 2 + size]))
    return None


def request(path: str, body: bytes, content_type: str, *, port: int, key: str | None = None) -> bytes:
    """The bytes of a POST."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body

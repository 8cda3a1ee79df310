"""Bodies of requests: how large they may be, and how slowly they may come.

Until a route says otherwise (`Body.bound`, once the caller's key is known), a body may have `http.max_body_bytes`. The
limit holds for announced bodies and for those of unknown length alike, while they are read. Only the time that the
server waits for the client counts as the client's. A client that disconnects before its body is complete is answered
400, not 500, though it no longer reads the answer.

A request that is refused before its body has been read also loses its connection: the rest of its body could not be
told from the next request. The answer is sent at once; bytes that still arrive are discarded for a moment, because
closing a connection that is being written to destroys what its other end has not read yet.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import RefusedBody
from service.errors import ClientGone, TooLarge, TooSlow
from service.settings import HttpSettings

LINGER_SECONDS, LINGER_BYTES = 2.0, 64_000_000


class BodyLimit:
    """Puts each request's `Body` between client and application."""

    def __init__(self, app: ASGIApp, limits: HttpSettings) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(scope, receive, send, self._limits)
        scope["oubli_body"] = body
        await self._app(scope, body.receive, body.send)
        await body.finish()


class Body:
    """The body of one request, between client and application.

    announced  bytes; None if it comes in chunks, or not at all.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: HttpSettings) -> None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        self.announced = int(length) if length.isdecimal() and length.isascii() else None
        self._receive = receive
        self._send = send
        self._limits = limits
        self._limit = limits.max_body_bytes
        self._received = 0  # bytes
        self._waited = 0.0  # seconds, for the client
        self._whole = not self.announced and "transfer-encoding" not in headers
        # A client that waits for our consent, and has not got it, sends nothing.
        self._sends = headers.get("expect", "").lower() != "100-continue"
        self._owes_end = False

    @property
    def is_coming(self) -> bool:
        """Whether the request has a body of which something is still to come: announced bytes, or chunks."""
        return not self._whole

    def bound(self, limit: int) -> None:
        """Set the most bytes that this body may have. Raises TooLarge if more are announced."""
        self._limit = limit
        if self.announced is not None and self.announced > limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part. Raises RefusedBody: of ClientGone, TooSlow or TooLarge."""
        if self._whole:
            return await self._receive()  # the client's disconnection, some time
        message = await self._next()
        if message["type"] == "http.disconnect":
            self._sends = False
            raise RefusedBody(ClientGone("The client was gone before its request had come."))
        self._sends = True
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise RefusedBody(self._too_large())
        self._whole = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        allowance, rate = self._limits.idle_seconds, self._limits.min_bytes_per_second
        if rate:
            allowance = min(allowance, self._limits.idle_seconds + self._received / rate - self._waited)
        began = time.monotonic()
        try:
            async with asyncio.timeout(allowance):
                return await self._receive()
        except TimeoutError:
            self._sends = False
            raise RefusedBody(TooSlow("The request's body comes too slowly.")) from None
        finally:
            self._waited += time.monotonic() - began

    async def send(self, message: Message) -> None:
        """Pass an answer on; without its end, while the client may still be sending."""
        if message["type"] == "http.response.start" and not self._whole:
            MutableHeaders(scope=message)["Connection"] = "close"
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self._whole:
            self._owes_end = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def finish(self) -> None:
        """Send the end of an answer that was given before the body had come."""
        if not self._owes_end:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                most = self._received + LINGER_BYTES
                while self._sends and not self._whole and self._received < most:
                    message = await self._receive()
                    self._received += len(message.get("body", b""))
                    self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request is larger than {self._limit:,} bytes.")

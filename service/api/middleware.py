"""Around every request: an id, a bound on its size, a farewell, and its count and time for /metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid6 import uuid7

from service import log, tracing
from service.api.metrics import Metrics
from service.api.problems import problem_of, respond
from service.clock import system_clock
from service.errors import TooLarge

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Arrival:
    """When a request came: by a clock that is never set (seconds), and by the one that records are dated by."""

    ticks: float
    at: datetime


class RequestId:
    """`X-Request-Id` on every response: the caller's, if it is harmless, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its id in the scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        scope["oubli_request_id"] = request_id
        scope["oubli_arrival"] = Arrival(time.perf_counter(), system_clock())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with log.request(request_id):
            await self._app(scope, receive, send_with_id)


class RequestTrace:
    """A span for each request, named by its route template. Not of probes and scrapes: they come every few seconds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, within its span; a caller's `traceparent` is what it belongs to."""
        if scope["type"] != "http" or scope["path"].startswith(("/health/", "/metrics")):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope)
        parent = {name: given[name] for name in tracing.HEADERS if name in given}
        method = method_of(scope)
        known = {"http.request.method": method, "oubli.request_id": scope["oubli_request_id"]}
        answer = Answer(send)
        with tracing.span(method, known, kind="server", parent=parent, root=True) as span:
            try:
                await self._app(scope, receive, answer)
            finally:
                if span is not None:
                    span.update_name(f"{method} {route_of(scope)}")
                    span.set_attributes({"http.route": route_of(scope), "http.response.status_code": answer.status})
                    if answer.status >= 500:
                        tracing.failed(span, str(answer.status))


class Farewell:
    """While the process drains, every response asks its caller to connect anew: behind a balancer, to another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; look at the state when its response begins."""

        async def parting(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["app"].state.draining:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, parting if scope["type"] == "http" else send)


class BodyLimit:
    """Refuse a body above its path's limit with 413: by its announced length, or as soon as it has come that far."""

    def __init__(self, app: ASGIApp, max_bytes: int, by_path: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._by_path.get(scope["path"], self._max_bytes)
        error = TooLarge(f"The request is larger than {limit:,} bytes.")
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await respond(problem_of(error, scope["path"]), {"Connection": "close"})(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # FastAPI turns any other exception of a body's reader into a 400.
                raise HTTPException(error.status, error.detail, {"Connection": "close"})
            return message

        await self._app(scope, counted, send)


class RequestMetrics:
    """Requests and their seconds, by route template: never by path, which holds ids and owners."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, answer = time.perf_counter(), Answer(send)
        try:
            await self._app(scope, receive, answer)
        finally:
            method, route = method_of(scope), route_of(scope)
            self._metrics.requests.labels(method, route, str(answer.status)).inc()
            self._metrics.request_seconds.labels(method, route).observe(time.perf_counter() - started)


class Answer:
    """A `send` that knows what status it has sent: 500 until then, for nothing is what a crash sends."""

    def __init__(self, send: Send) -> None:
        self.status = 500
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Pass it on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def route_of(scope: Scope) -> str:
    """The template of a request's path."""
    route: str = getattr(scope.get("route"), "path", "unmatched")
    return route


def method_of(scope: Scope) -> str:
    """A client may send any word: each would be a series of its own, for ever."""
    method: str = scope["method"]
    return method if method in METHODS else "other"

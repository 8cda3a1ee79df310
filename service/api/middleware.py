"""Around every request: an id, a bound on its head, safe headers, draining, and its count and time for /metrics."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid6 import uuid7

from service import log, tracing
from service.api.connection import head_limit
from service.api.metrics import Metrics
from service.api.paths import path_of
from service.api.problems import SAFE, problem_of, respond
from service.clock import system_clock
from service.errors import TooManyHeaders
from service.settings import HttpSettings

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Arrival:
    """When a request came: by a monotonic clock (seconds), and by the one that records are dated by."""

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


class RootPath:
    """Paths as a client sees them, whether or not the proxy has cut off what it shows the service under.

    uvicorn's setting of that name takes it for granted that it has.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the whole path (as ASGI has it) and its root."""
        root = self._root_path
        if scope["type"] == "http" and root:
            scope["root_path"] = root
            if not scope["path"].startswith(f"{root}/"):
                scope["path"] = root + scope["path"]
                scope["raw_path"] = root.encode() + (scope.get("raw_path") or b"")
        await self._app(scope, receive, send)


class RequestTrace:
    """A span for each request, named by its route template. Not of probes and scrapes: they come every few seconds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, within its span; a caller's `traceparent` is what it belongs to."""
        if scope["type"] != "http" or path_of(scope).startswith(("/health/", "/metrics")):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope)
        parent = {name: given[name] for name in tracing.HEADERS if name in given}
        method = method_of(scope)
        known = {"http.request.method": method, "oubli.request_id": scope["oubli_request_id"]}
        answer = ResponseWatch(send)
        with tracing.span(method, known, kind="server", parent=parent, root=True) as span:
            try:
                await self._app(scope, receive, answer)
            finally:
                if span is not None:
                    span.update_name(f"{method} {route_of(scope)}")
                    span.set_attributes({"http.route": route_of(scope), "http.response.status_code": answer.status})
                    if answer.status >= 500:
                        tracing.failed(span, str(answer.status))


class ConnectionDraining:
    """While the process drains, every response asks its caller to connect anew: behind a balancer, to another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; look at the state when its response begins."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["app"].state.draining:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)


class HeadLimit:
    """Refuses an address and headers that are too large with 431. `connection.py` bounds what is parsed before that."""

    def __init__(self, app: ASGIApp, limits: HttpSettings) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what has come."""
        if scope["type"] == "http" and self._is_too_large(scope):
            problem = problem_of(TooManyHeaders(head_limit(self._limits)), scope["path"])
            await respond(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_too_large(self, scope: Scope) -> bool:
        headers = scope["headers"]
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
        return len(headers) > self._limits.max_headers or size > self._limits.max_header_bytes


class SafeHeaders:
    """`problems.SAFE` on every answer that does not say otherwise; scripts of /docs may be kept, if asked for anew."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add to its answer what that does not say."""
        public = scope["type"] == "http" and path_of(scope).startswith("/docs")

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if public:
                    headers.setdefault("Cache-Control", "no-cache")
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, safe if scope["type"] == "http" else send)


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
        started, answer = time.perf_counter(), ResponseWatch(send)
        try:
            await self._app(scope, receive, answer)
        finally:
            method, route = method_of(scope), route_of(scope)
            self._metrics.requests.labels(method, route, str(answer.status)).inc()
            self._metrics.request_seconds.labels(method, route).observe(time.perf_counter() - started)


class ResponseWatch:
    """A `send` that remembers the status that it has sent: 500 until then, as for a crash before any response."""

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
    """The request's method, or `other`: a client may send any word, and each would be a series of its own."""
    method: str = scope["method"]
    return method if method in METHODS else "other"

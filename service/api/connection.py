"""One connection: how many there may be, how long a request's head may take and how large it may be.

uvicorn's protocol on httptools has no limit for any of these (its `limit_concurrency` counts only requests whose head
has come; `h11_max_incomplete_event_size` is h11's alone). This subclass adds them, and answers in problem+json where no
application is reached. Bodies are bounded in `service.api.bodies`.

The head's time is counted from the connection's beginning, and from the first byte after an answer: a client that
sends a byte now and then gains nothing. A client that does not read what it is sent is cut off as well.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uuid6 import uuid7
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.problems import problem_of, respond
from service.errors import Malformed, ServiceError, TooManyHeaders, TooSlow, Unavailable
from service.settings import HttpSettings

LINGER_SECONDS = 1.0  # a client that is refused while it sends reads why, before what it sent on breaks the connection
MOST_LINGERING = 64


class Connection(HttpToolsProtocol):
    """uvicorn's, with limits."""

    limits: ClassVar[HttpSettings]
    lingering: ClassVar[set[Connection]]  # that were refused, and are about to be closed

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._awaits_head = True  # what comes next belongs to a request's head
        self._heads = 0  # that have come
        self._head_bytes = 0  # of the one that is coming
        self._head_begun = False
        self._head_late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # ends the connection of a client that does not read
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; refuse it if there are too many."""
        super().connection_made(cast(asyncio.Transport, transport))  # uvloop's is none by its type
        _end_unacknowledged(self.transport, self.limits.idle_seconds)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(Unavailable("The service has as many connections as it may have. Try again in a moment."))
        else:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed: nothing is timed any more."""
        self._stop_watching_head()
        if self._unread is not None:
            self._unread.cancel()
        self.lingering.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, as far as that is known before it is parsed."""
        if not self._listens():
            return
        awaited, heads = self._awaits_head, self._heads
        if awaited:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._listens() or not self._awaits_head:
            return
        if self._head_bytes > self.limits.max_header_bytes:
            self._refuse(TooManyHeaders(head_limit(self.limits)))
        elif self._head_late is None and (self._head_begun or (awaited and heads == self._heads)):
            self._watch_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._head_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head has come: its time is over, the application's begins."""
        self._heads += 1
        self._awaits_head = self._head_begun = False
        self._stop_watching_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has come; the next one may follow."""
        self._awaits_head, self._head_bytes = True, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read what it is sent; it has a while to begin."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        self._refuse(Malformed("This is no HTTP request."))

    def _watch_head(self) -> None:
        self._head_late = self.loop.call_later(self.limits.header_seconds, self._cut_head)

    def _stop_watching_head(self) -> None:
        if self._head_late is not None:
            self._head_late.cancel()
            self._head_late = None

    def _cut_head(self) -> None:
        self._head_late = None
        if self._answers():
            self._watch_head()  # an answer is under way, and the next request has begun behind it
        elif self._head_begun:
            self._refuse(TooSlow(f"The request's headers did not come within {self.limits.header_seconds:g} s."))
        else:
            self.transport.close()

    def _listens(self) -> bool:
        return not self._refused and not self.transport.is_closing()

    def _answers(self, *, begun: bool = False) -> bool:
        """Whether a request is being answered; or even a part of its answer has been sent."""
        cycle: Any = self.cycle  # None before the first request, though uvicorn's types do not say so
        return cycle is not None and not cycle.response_complete and (cycle.response_started or not begun)

    def _refuse(self, error: ServiceError) -> None:
        """Answer for the application, and close."""
        if not self._listens():
            return
        self._refused = True
        self._stop_watching_head()
        if not self._answers(begun=True):  # in the middle of an answer nothing can be said
            self.transport.write(_rendered(error))
        if len(self.lingering) < MOST_LINGERING and self.transport.can_write_eof():
            self.connections.discard(self)  # while it lingers it does not count against max_connections
            self.lingering.add(self)
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()


def connections(limits: HttpSettings) -> type[asyncio.Protocol]:
    """The protocol with these limits, as uvicorn's `http` takes it."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "lingering": set()})


def head_limit(limits: HttpSettings) -> str:
    """In words."""
    return (
        f"The address and headers of a request may have {limits.max_header_bytes:,} bytes "
        f"in {limits.max_headers} headers."
    )


def _rendered(error: ServiceError) -> bytes:
    retry = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    response = respond(problem_of(error, "/"), {"Connection": "close", "X-Request-Id": str(uuid7()), **retry})
    status = HTTPStatus(error.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


def _end_unacknowledged(transport: asyncio.Transport, seconds: float) -> None:
    """Let the kernel end a connection whose client acknowledges no data for so long, also while it is being closed."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    connection = transport.get_extra_info("socket")
    if option is not None and connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))

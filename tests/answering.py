"""A server that answers as it is told to, right or wrong, for tests of clients. On loopback, in a thread."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def said(value: Any, status: int = 200, **headers: str) -> Reply:
    """JSON; underscores in the names of headers are hyphens."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def problem(status: int, detail: str, *, title: str = "Refused", **more: Any) -> Reply:
    """As Oubli says it (RFC 9457); what is busy may be asked again at once."""
    return said({"title": title, "status": status, "detail": detail, **more}, status, Retry_After="0")


@contextmanager
def answering(answer: Callable[[Request], Reply]) -> Iterator[str]:
    """The address of such a server, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = answer(Request(self.command, self.path, dict(self.headers), body))
            self.send_response(reply.status)
            for name, text in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(reply.body)

    for method in ("GET", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

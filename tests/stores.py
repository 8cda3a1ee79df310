"""Buckets to test with, what lies in them, and a proxy that stands before a server and misbehaves on request."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import SecretStr

from service.artifacts import Store, open_store
from service.artifacts.s3 import connect
from service.settings import S3Settings
from tests.servers import S3Server, s3


@dataclass(frozen=True)
class Place:
    """A prefix of its own in a bucket of a server."""

    server: S3Server
    bucket: str
    prefix: str = field(default_factory=lambda: f"oubli/{uuid4().hex}")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def settings(self, **given: Any) -> S3Settings:
        """As the service is told; `given` overrides."""
        key, secret = self.server.keys
        usual = {"endpoint_url": self.server.url, "access_key_id": key, "secret_access_key": SecretStr(secret)}
        return S3Settings(**{**usual, **given})

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The same, for a process."""
        key, secret = self.server.keys
        return {
            "OUBLI_STORE_URL": self.url,
            "OUBLI_S3__ENDPOINT_URL": endpoint or self.server.url,
            "OUBLI_S3__ACCESS_KEY_ID": key,
            "OUBLI_S3__SECRET_ACCESS_KEY": secret,
        }

    def open(self, folder: Any = None, **given: Any) -> Store:
        return open_store(self.url, folder=folder, s3=self.settings(**given))

    @property
    def client(self) -> Any:
        """Past the store, as the server's administrator."""
        return connect(self.settings())

    def versions(self) -> list[tuple[str, str]]:
        """(key, version) of all that lies there, delete markers and overwritten versions too."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        kinds = ("Versions", "DeleteMarkers")
        found = [item for page in pages for kind in kinds for item in page.get(kind, ())]
        return [(item["Key"].removeprefix(f"{self.prefix}/"), item["VersionId"]) for item in found]

    def uploads(self) -> list[str]:
        """Keys of unfinished uploads in parts."""
        answer = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return [item["Key"].removeprefix(f"{self.prefix}/") for item in answer.get("Uploads", ())]


PLAIN, VERSIONED = "plain", "versioned"


@contextmanager
def buckets() -> Iterator[S3Server]:
    """A server with two buckets; one keeps versions."""
    with s3() as server:
        client = Place(server, PLAIN).client
        for bucket in (PLAIN, VERSIONED):
            client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
        yield server


# ----------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Request:
    """What arrives at a proxy."""

    method: str
    path: str  # with its query

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Refusal:
    """Answered in the server's place."""

    status: int = 503
    code: str = "SlowDown"


class Hang:
    """Not answered at all."""


class Cut:
    """Answered by the server, and cut in the middle of the body."""


class LoseAnswer:
    """Done by the server; its answer is lost."""


Fault = Refusal | Hang | Cut | LoseAnswer
Rule = Callable[[Request], Fault | None]


class FaultyProxy:
    """A reverse proxy for HTTP on loopback: passes everything on, but for what a rule says. Signatures stay valid."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._rule: Rule = lambda request: None
        self._freed = threading.Event()
        self.seen: list[Request] = []  # in order of arrival
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                """One that goes away, or is cut off, ends its connection and nothing else."""
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return lambda: proxy._handle(self)
                raise AttributeError(name)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._freed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @contextmanager
    def faulty(self, rule: Rule) -> Iterator[None]:
        """Misbehave by that rule for as long as the block lasts; what hangs is let go at its end, unanswered."""
        self._freed.clear()
        self._rule = rule
        try:
            yield
        finally:
            self._rule = lambda request: None
            self._freed.set()

    def refusing_writes(self, status: int = 503, code: str = "SlowDown") -> Any:
        """Reads work; whatever would change something is refused."""
        return self.faulty(lambda request: Refusal(status, code) if request.writes else None)

    def refusing(self, status: int = 503, code: str = "SlowDown") -> Any:
        return self.faulty(lambda request: Refusal(status, code))

    def hanging(self) -> Any:
        return self.faulty(lambda request: Hang())

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler.command, handler.path)
        self.seen.append(request)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self._rule(request)
        if isinstance(fault, Hang):
            self._freed.wait(300)
            handler.close_connection = True
        elif isinstance(fault, Refusal):
            words = f"<Error><Code>{fault.code}</Code><Message>a proxy refuses</Message></Error>".encode()
            _answer(handler, fault.status, [("Content-Type", "application/xml")], words)
        else:
            status, headers, data = self._forward(handler, body)
            if isinstance(fault, LoseAnswer):
                handler.close_connection = True
            else:
                _answer(handler, status, headers, data, cut=isinstance(fault, Cut))

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(str(self._upstream.hostname), self._upstream.port, timeout=60)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in ("connection", "expect"):  # the handler has said "100 Continue" by itself
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, answer.getheaders(), data
        finally:
            connection.close()


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False
) -> None:
    handler.send_response_only(status)
    for name, value in headers:
        if name.lower() not in ("connection", "transfer-encoding", "content-length"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data[: len(data) // 2] if cut else data)
    handler.close_connection = handler.close_connection or cut


@contextmanager
def unanswering() -> Iterator[str]:
    """An endpoint that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"

"""Traces of real processes, sent to a collector of the test's own: one trace from the request to the worker."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.harness import TINY, Picture, Service, free_port, oubli, until

pytestmark = pytest.mark.thorough

OWNER, LABEL = "zz-owner-zz", "zz-label-zz"


@dataclass
class Collector:
    """An OTLP/HTTP receiver: what it was sent, as bytes and as (trace, role, name)."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[tuple[bytes, str, str]]:
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
                assert attributes["service.name"] == "oubli"
                for scope in resource.scope_spans:
                    found += [(span.trace_id, attributes["oubli.role"], span.name) for span in scope.spans]
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def test_a_deletion_is_one_trace_and_no_span_is_personal(tmp_path: Path, pictures: list[Picture]) -> None:
    with collecting() as collector:
        env = {**TINY, "OUBLI_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
               "OTEL_BSP_SCHEDULE_DELAY": "200", "FASTAPI_OTEL_AUTO_CONFIGURE": "true"}  # fmt: skip
        with Service(tmp_path, env=env).start() as service:
            named = [Picture(f"zz-file-{i}.png", p.data, f"{LABEL}-{i % 2}") for i, p in enumerate(pictures[:12])]
            service.contribute(named, OWNER)
            service.contribute(named[:1], f"{OWNER}-2")
            service.settle()
            service.client.get("/samples", params={"owner": OWNER, "label": LABEL})

            def is_followed() -> bool:
                """Delete once more, in case a worker has looked by itself just then."""
                sample = service.pages("/samples", owner=OWNER)[0]
                service.complete(service.client.delete(f"/samples/{sample['id']}").json()["id"])
                service.settle()
                found = until(lambda: [s for s in collector.spans() if s[2] == "DELETE /samples/{sample_id}"])
                traces = {trace for trace, _, _ in found}
                wanted = {("api", "accept erasure"), ("api", "reconcile"), ("worker", "oubli.train"),
                          ("worker", "build prompt"), ("worker", "publish prompt")}  # fmt: skip
                return any(wanted <= {(r, n) for t, r, n in collector.spans() if t == trace} for trace in traces)

            until(is_followed, what="a trace from the request to the worker")
            assert service.client.delete(f"/owners/{OWNER}-2").status_code == 202
            service.settle()
        names = {name for _, _, name in collector.spans()}
        assert "DELETE /owners/{owner:path}" in names  # sent at the latest as the process ended
        assert {"POST /samples/batch", "GET /samples", "batch", "take in", "registry INSERT"} <= names
        assert not any("health" in name or "metrics" in name for name in names)
        for body in collector.bodies:
            assert b"zz-" not in body
        assert "zz-" not in service.log


def test_a_collector_that_does_not_answer_holds_nobody_up(tmp_path: Path, pictures: list[Picture]) -> None:
    env = {**TINY, "OUBLI_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with Service(tmp_path, env=env).start() as service:
        service.contribute(pictures[:6], OWNER)
        service.settle()
        assert service.stop() < 10
        assert service.process.returncode == 0


def test_a_protocol_that_is_not_spoken_is_refused(tmp_path: Path) -> None:
    env = {**TINY, "OUBLI_TRACING": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OUBLI_DATA_DIR": str(tmp_path)}
    assert oubli("migrate", env=env).code == 0
    done = oubli("api", "--port", str(free_port()), env=env)
    assert done.code == 2
    assert "http/protobuf" in done.err

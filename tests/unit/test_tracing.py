"""Spans: of one trace from request to work, with ids and nothing that is somebody's."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.api.app import create_app
from service.api.middleware import RequestId, RequestTrace
from service.errors import Misconfigured
from service.messaging import propagation
from service.registry import tracing as registry_tracing
from service.registry.engine import Registry
from tests.world import settings

SECRET = "ada-lovelace"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start("test", exporter=exporter)
    yield exporter
    tracing.stop()


def told(exporter: InMemorySpanExporter) -> str:
    return json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()])


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_without_being_asked_for_nothing_is_recorded_or_handed_on() -> None:
    with tracing.span("work", root=True) as span:
        assert span is None
        assert tracing.headers() == {}
        assert propagation.headers() == {}


def test_what_is_done_elsewhere_goes_on_with_the_trace(exporter: InMemorySpanExporter) -> None:
    with tracing.span("request", root=True):
        headers = propagation.headers()
    assert set(headers) == {"traceparent"}
    with propagation.followed(json.loads(json.dumps(headers)), "oubli.train"), tracing.span("train"):
        pass
    spans = named(exporter)
    assert len({span.context.trace_id for span in spans.values() if span.context}) == 1
    task, request = spans["oubli.train"], spans["request"]
    assert task.parent is not None
    assert request.context is not None
    assert task.parent.span_id == request.context.span_id


@pytest.mark.parametrize("given", [{}, {"traceparent": 7}, {"traceparent": "nonsense", "oubli_request_ids": "x"}])
def test_a_message_without_headers_or_with_nonsense_is_as_good(
    exporter: InMemorySpanExporter, given: dict[str, object]
) -> None:
    with propagation.followed(given, "oubli.train"), tracing.span("train"):
        pass
    assert exporter.get_finished_spans() == ()


def test_an_exception_is_told_by_its_kind(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), tracing.span("work", root=True):
        raise KeyError(SECRET)
    (span,) = exporter.get_finished_spans()
    assert span.attributes == {"error.type": "KeyError"}
    assert not span.status.is_ok
    assert SECRET not in told(exporter)


def test_statements_are_told_by_their_first_word(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    registry_tracing.observe(registry)
    with registry.write() as session:
        session.execute(sa.text("CREATE TABLE owners (ref TEXT UNIQUE)"))  # outside of any trace
    assert exporter.get_finished_spans() == ()
    with tracing.span("work", root=True):
        with registry.write() as session:
            session.execute(sa.text("INSERT INTO owners VALUES (:ref)"), {"ref": SECRET})
        with pytest.raises(sa.exc.IntegrityError), registry.write() as session:
            session.execute(sa.text(f"INSERT INTO owners VALUES ('{SECRET}')"))
        assert trace.get_current_span().get_span_context().is_valid  # a failed statement leaves it as it was
    registry.close()
    finished = [(span.name, span.status.is_ok) for span in exporter.get_finished_spans()]
    assert ("registry INSERT", True) in finished
    assert ("registry INSERT", False) in finished
    assert SECRET not in told(exporter)


def application() -> FastAPI:
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False})

    @app.delete("/owners/{owner:path}")
    def forget(owner: str) -> dict[str, str]:
        with tracing.span("accept"):
            return {}

    @app.get("/broken/{owner}")
    def broken(owner: str) -> None:
        raise KeyError(owner)

    @app.get("/health/live")
    def live() -> dict[str, str]:
        return {}

    app.add_middleware(RequestTrace)
    app.add_middleware(RequestId)
    return app


def call(method: str, path: str, headers: dict[str, str] | None = None) -> None:
    async def once() -> None:
        transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.request(method, path, headers=headers)

    asyncio.run(once())


def test_a_request_is_told_by_its_route_and_never_by_its_path_or_query(exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": PARENT, "baggage": f"who={SECRET}", "X-Request-Id": "r-1", "User-Agent": SECRET}
    call("DELETE", f"/owners/{SECRET}?owner={SECRET}", headers)
    call("GET", f"/broken/{SECRET}?label={SECRET}")
    call("GET", f"/{SECRET}")
    call("GET", "/health/live")
    spans = named(exporter)
    assert set(spans) == {"accept", "DELETE /owners/{owner:path}", "GET /broken/{owner}", "GET unmatched"}
    request = spans["DELETE /owners/{owner:path}"]
    assert request.attributes == {
        "http.request.method": "DELETE",
        "http.route": "/owners/{owner:path}",
        "http.response.status_code": 200,
        "oubli.request_id": "r-1",
    }
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    accept = spans["accept"]  # in a thread of the pool
    assert accept.parent is not None
    assert request.context is not None
    assert accept.parent.span_id == request.context.span_id
    assert spans["GET /broken/{owner}"].attributes["error.type"] == "KeyError"  # type: ignore[index]
    assert SECRET not in told(exporter)


def test_other_libraries_record_nothing(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    """FastAPI would, paths and all, if the provider were the global one or its own switches were on."""
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    with trace.get_tracer("somebody").start_as_current_span(SECRET):
        pass
    assert exporter.get_finished_spans() == ()
    app = create_app(settings(tmp_path, tracing=True))
    assert not any(app._telemetry[name] for name in ("tracing", "metrics", "logs", "auto_configure"))


def test_a_missing_extra_and_another_protocol_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        with pytest.raises(Misconfigured, match="grpc"):
            tracing.start("api")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(Misconfigured, match=r"pip install 'oubli-server\[otel\]'"):
        tracing.start("api")

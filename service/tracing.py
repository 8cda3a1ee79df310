"""OpenTelemetry traces, for those who ask for them: `OUBLI_TRACING=true` and the extra `otel`.

A span says that something of ours was done, when, for how long, with which outcome, and names ids only: no path, query,
header or body of a request, no statement or parameter, no words of an exception. To keep it so, the provider is ours
and not OpenTelemetry's global one: what other libraries would record (FastAPI: paths, which hold owners) goes nowhere.

Where spans are sent is said by the standard variables, `OTEL_EXPORTER_OTLP_ENDPOINT` first of all. A collector that
does not answer loses spans and delays no request. Without `start`, everything here does nothing and imports nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from service.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanKind, Tracer

P = ParamSpec("P")
R = TypeVar("R")
Value = str | int | float | bool

FLUSH_SECONDS = 3.0  # a process that ends waits no longer for its last spans to be sent
HEADERS = ("traceparent", "tracestate")  # W3C trace context; never baggage, which may hold anything


class _Tracing:
    """Of this process; nothing until `start`."""

    provider: TracerProvider | None = None
    tracer: Tracer | None = None


def start(role: str, *, exporter: SpanExporter | None = None) -> None:
    """Record spans from now on. Raises Misconfigured.

    role      of this process: api, worker.
    exporter  where spans go at once, instead of what the environment says, in batches.
    """
    if (protocol := _protocol()) != "http/protobuf":
        raise Misconfigured(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; traces are sent by http/protobuf only.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ImportError:
        raise Misconfigured("OUBLI_TRACING needs OpenTelemetry: pip install 'oubli-server[otel]'.") from None
    name = os.environ.get("OTEL_SERVICE_NAME") or "oubli"
    resource = Resource.create({"service.name": name, "oubli.role": role})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if exporter is not None else BatchSpanProcessor(OTLPSpanExporter())
    )
    _Tracing.provider, _Tracing.tracer = provider, provider.get_tracer("oubli")
    atexit.register(stop)


def stop() -> None:
    """Send what is left, for no longer than a process that ends can wait."""
    provider, _Tracing.provider, _Tracing.tracer = _Tracing.provider, None, None
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Value] | None = None,
    *,
    kind: str = "internal",
    parent: Mapping[str, str] | None = None,
    root: bool = False,
) -> Iterator[Span | None]:
    """What is done within, as part of the trace that it belongs to; without one nothing is recorded, unless `root`.

    parent  headers of what caused it elsewhere, as `headers` has made them.
    """
    tracer = _Tracing.tracer
    if tracer is None:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(parent) if parent else None
    if not root and not trace.get_current_span(context).get_span_context().is_valid:
        yield None
        return
    with tracer.start_as_current_span(
        name,
        context,
        kind=_kind(kind),
        attributes=dict(attributes or {}),
        record_exception=False,  # its words may quote a value
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            failed(opened, type(error).__qualname__)
            raise


def failed(opened: Span, reason: str) -> None:
    """Mark the span as failed; the reason is a kind of failure, never its words."""
    from opentelemetry.trace import StatusCode

    opened.set_attribute("error.type", reason)
    opened.set_status(StatusCode.ERROR)


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose every call is a span, if it is part of a trace."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name):
                return function(*args, **kwargs)

        return wrapped

    return decorate


def headers() -> dict[str, str]:
    """Trace context for the process that goes on with this work; empty if this is part of no trace."""
    carrier: dict[str, str] = {}
    if _Tracing.tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


def _kind(name: str) -> SpanKind:
    from opentelemetry.trace import SpanKind

    return SpanKind[name.upper()]


def _protocol() -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return next((os.environ[name] for name in names if os.environ.get(name)), "http/protobuf")

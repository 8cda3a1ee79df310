"""Spans of SQL statements within a trace: the first word and the duration, never the text or the parameters."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from sqlalchemy import event

from service import tracing
from service.registry.engine import Registry


def observe(registry: Registry) -> None:
    """Record a span for each statement from now on. Outside of a trace nothing is recorded."""
    engine = registry.engine
    system = "sqlite" if registry.is_sqlite else "postgresql"

    @event.listens_for(engine, "before_cursor_execute")
    def begin(_connection: Any, _cursor: Any, statement: str, _given: Any, context: Any, _many: bool) -> None:
        verb = statement.lstrip().partition(" ")[0].upper()
        name = verb if verb.isalpha() else "STATEMENT"
        opened = ExitStack()
        opened.enter_context(tracing.span(f"registry {name}", {"db.system.name": system}, kind="client"))
        context.oubli_span = opened

    @event.listens_for(engine, "after_cursor_execute")
    def end(_connection: Any, _cursor: Any, _statement: str, _given: Any, context: Any, _many: bool) -> None:
        context.oubli_span.close()

    @event.listens_for(engine, "handle_error")
    def fail(failure: Any) -> None:
        opened: ExitStack | None = getattr(failure.execution_context, "oubli_span", None)
        if opened is not None:
            error = failure.original_exception
            opened.__exit__(type(error), error, error.__traceback__)

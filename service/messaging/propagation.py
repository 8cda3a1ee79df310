"""Propagation: a message's headers say which requests it is sent for, so that a worker's log and traces name them.

Ids only: of the requests, bounded in number, and of the trace that they are part of. A message without these headers,
or with unusable ones, is served like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service import log, tracing

REQUESTS = "oubli_request_ids"


def headers() -> dict[str, object]:
    """The headers of a message that is sent now."""
    requests = log.causes()
    return {**({REQUESTS: list(requests)} if requests else {}), **tracing.headers()}


@contextmanager
def followed(given: Mapping[str, object], task: str) -> Iterator[None]:
    """Serve a message with these headers within the block."""
    requests = given.get(REQUESTS)
    parent = {name: value for name in tracing.HEADERS if isinstance(value := given.get(name), str)}
    with (
        log.caused_by(requests if isinstance(requests, list) else []),
        tracing.span(task, kind="consumer", parent=parent),
    ):
        yield

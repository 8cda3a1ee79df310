"""From a request to the work that it causes elsewhere: what a message's headers say of where it comes from.

Ids only: the requests' own, bounded in number, and the trace that they are part of. A message without them, or with
nonsense in them, is as good as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service import log, tracing

REQUESTS = "oubli_request_ids"


def headers() -> dict[str, object]:
    """What a message that is sent now should carry."""
    requests = log.causes()
    return {**({REQUESTS: list(requests)} if requests else {}), **tracing.headers()}


@contextmanager
def followed(given: Mapping[str, object], task: str) -> Iterator[None]:
    """A message with these headers is being served."""
    requests = given.get(REQUESTS)
    parent = {name: value for name in tracing.HEADERS if isinstance(value := given.get(name), str)}
    with (
        log.caused_by(requests if isinstance(requests, list) else []),
        tracing.span(task, kind="consumer", parent=parent),
    ):
        yield

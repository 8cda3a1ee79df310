"""`Idempotency-Key`: a repeated request is answered with the resource that the first one made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from models.spec import sha256
from service.core.context import Context
from service.core.text import check_text
from service.errors import Conflict, Invalid, StillRunning
from service.registry import idempotency

LONGEST_KEY = 255  # characters
# After this time the first request counts as dead; if it is still running, `idempotency.finish` stops it from making
# anything. A start that far in the future counts as well: the clock was set back.
RUNNING = timedelta(minutes=1)


@dataclass(frozen=True)
class Ticket:
    """The state of a request's `Idempotency-Key`.

    key_digest   for the transaction that makes the resource, to be finished there; None without a key.
    resource_id  of the resource that the first request made, if this is not the first.
    """

    key_digest: str | None = None
    resource_id: str | None = None


def request_digest(*parts: bytes) -> str:
    """Digest of the parts that two repeated requests must have in common."""
    return sha256(b"oubli/request/1", *parts)


@contextmanager
def once(context: Context, route: str, key: str | None, digest: str, *, caller: str) -> Iterator[Ticket]:
    """Run the block under this key; if the block raises, the key is free again. Each caller has keys of its own.

    Raises Invalid if the key came with another request before; StillRunning until the first one is answered; Conflict
    if its sample has been erased.
    """
    if key is None:
        yield Ticket()
        return
    key = one_spelling(key)
    key_digest = hashlib.sha256(f"{route}\n{caller}\n{key}".encode()).hexdigest()
    resource_id = _begin(context, key_digest, digest)
    if resource_id is not None:
        yield Ticket(resource_id=resource_id)
        return
    try:
        yield Ticket(key_digest=key_digest)
    finally:
        with context.registry.write_beside_plans() as session:
            idempotency.abandon(session, key_digest)  # of no effect once it is finished


def one_spelling(key: str) -> str:
    """The key, normalised like other text. Headers arrive decoded as Latin-1; clients mean UTF-8. Raises Invalid."""
    with suppress(UnicodeError):
        key = key.encode("latin-1").decode()
    return check_text("Idempotency-Key", key, most=LONGEST_KEY)


def _begin(context: Context, key_digest: str, digest: str) -> str | None:
    now = context.clock()
    with context.registry.write_beside_plans() as session:
        first = idempotency.begin(session, key_digest, digest, now=now)
        if first is not None and first.resource_id is None and abs(now - first.created_at) > RUNNING:
            idempotency.abandon(session, key_digest)
            first = idempotency.begin(session, key_digest, digest, now=now)
    if first is None:
        return None
    if first.resource_id is not None and first.request_digest is None:
        raise Conflict("The sample that this Idempotency-Key made has been erased.")
    if first.request_digest != digest:
        raise Invalid("This Idempotency-Key came with another request before. Use a new one.")
    if first.resource_id is None:
        raise StillRunning("The first request with this Idempotency-Key is still running.")
    return first.resource_id

"""Idempotency keys, and the resource that the first request with each of them made.

Keys are kept as digests. When a sample is erased its row stays, without the request's digest, so that a late retry of
the upload cannot bring the sample back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.errors import Conflict
from service.registry.engine import ReadSession, WriteSession
from service.registry.statements import chunked, insert_or_ignore
from service.registry.tables import IdempotencyRow


@dataclass(frozen=True)
class First:
    """The first request with a key; without a resource while it is still running."""

    request_digest: str | None
    resource_id: str | None
    created_at: datetime


def begin(session: WriteSession, key_digest: str, request_digest: str, *, now: datetime) -> First | None:
    """Claim a key. None if this request is the first with it; otherwise the first request."""
    statement = (
        insert_or_ignore(session, IdempotencyRow, key=["key_digest"])
        .values(key_digest=key_digest, request_digest=request_digest, created_at=now)
        .returning(IdempotencyRow.key_digest)
    )
    if session.execute(statement).one_or_none() is not None:
        return None
    return get(session, key_digest)


def get(session: ReadSession, key_digest: str) -> First | None:
    """The first request with this key, if any."""
    row = session.get(IdempotencyRow, key_digest, populate_existing=True)
    return First(row.request_digest, row.resource_id, row.created_at) if row is not None else None


def finish(session: WriteSession, key_digest: str, resource_id: str) -> None:
    """Record the resource of a request, within the transaction that makes it.

    Raises Conflict if this request counted as dead meanwhile and another one with this key has made a resource: then
    only that one remains.
    """
    open_still = (IdempotencyRow.key_digest == key_digest, IdempotencyRow.resource_id.is_(None))
    statement = sa.update(IdempotencyRow).where(*open_still).values(resource_id=resource_id)
    if session.execute(statement.returning(IdempotencyRow.key_digest)).one_or_none() is None:
        raise Conflict("Another request with this Idempotency-Key was faster. Send it again for its answer.")


def abandon(session: WriteSession, key_digest: str) -> None:
    """Free a key whose first request failed and made nothing."""
    session.execute(
        sa.delete(IdempotencyRow).where(IdempotencyRow.key_digest == key_digest, IdempotencyRow.resource_id.is_(None))
    )


def forget_requests(session: WriteSession, resource_ids: Sequence[str]) -> None:
    """Drop the requests' digests, which describe images, of samples that are erased; their random ids stay."""
    for chunk in chunked(resource_ids):
        session.execute(
            sa.update(IdempotencyRow).where(IdempotencyRow.resource_id.in_(chunk)).values(request_digest=None)
        )


def expire(session: WriteSession, *, before: datetime) -> None:
    """Delete keys that are too old for a retry."""
    session.execute(sa.delete(IdempotencyRow).where(IdempotencyRow.created_at < before))

"""Which resource the first request with an `Idempotency-Key` made.

Keys are kept as digests. When a sample is erased its row stays, without the request's digest, so that a late retry of
the upload cannot bring the sample back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.errors import StillRunning
from service.registry.engine import ReadSession, WriteSession
from service.registry.tables import IdempotencyRow

_CHUNK = 500


@dataclass(frozen=True)
class First:
    """The first request with a key. No resource yet: it is still running."""

    request_digest: str | None
    resource_id: str | None
    created_at: datetime


def begin(session: WriteSession, key_digest: str, request_digest: str, *, now: datetime) -> First | None:
    """Claim a key. None: the caller is first; otherwise the request that was."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(IdempotencyRow)
        .values(key_digest=key_digest, request_digest=request_digest, created_at=now)
        .on_conflict_do_nothing(index_elements=["key_digest"])
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
    """The request has made its resource; in the transaction that makes it.

    Raises StillRunning if it was taken for dead, and another one with this key has made it: of both, one remains.
    """
    open_still = (IdempotencyRow.key_digest == key_digest, IdempotencyRow.resource_id.is_(None))
    statement = sa.update(IdempotencyRow).where(*open_still).values(resource_id=resource_id)
    if session.execute(statement.returning(IdempotencyRow.key_digest)).one_or_none() is None:
        raise StillRunning("Another request with this Idempotency-Key was faster. Send it again for its answer.")


def abandon(session: WriteSession, key_digest: str) -> None:
    """The first request failed and made nothing: the key is free again."""
    session.execute(
        sa.delete(IdempotencyRow).where(IdempotencyRow.key_digest == key_digest, IdempotencyRow.resource_id.is_(None))
    )


def forget_requests(session: WriteSession, resource_ids: Sequence[str]) -> None:
    """These samples are erased: keep their random id, drop what describes the image."""
    for start in range(0, len(resource_ids), _CHUNK):
        chunk = list(resource_ids[start : start + _CHUNK])
        session.execute(
            sa.update(IdempotencyRow).where(IdempotencyRow.resource_id.in_(chunk)).values(request_digest=None)
        )


def expire(session: WriteSession, *, before: datetime) -> None:
    """Forget keys that are older than any retry."""
    session.execute(sa.delete(IdempotencyRow).where(IdempotencyRow.created_at < before))

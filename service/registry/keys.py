"""API keys, by the digest of their secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import ApiKey
from service.registry.tables import ApiKeyRow


def _record(row: ApiKeyRow) -> ApiKey:
    return ApiKey(row.id, row.name, tuple(row.scopes), row.created_at, row.revoked_at)


def create(session: WriteSession, *, name: str, digest: str, scopes: Sequence[str], now: datetime) -> ApiKey:
    """Record a key."""
    row = ApiKeyRow(id=str(uuid7()), name=name, digest=digest, scopes=list(scopes), created_at=now)
    session.add(row)
    session.flush()
    return _record(row)


def by_digests(session: ReadSession, digests: Sequence[str]) -> dict[str, ApiKey]:
    """The keys with these digests, by digest; none that is revoked."""
    statement = sa.select(ApiKeyRow).where(ApiKeyRow.digest.in_(digests), ApiKeyRow.revoked_at.is_(None))
    return {row.digest: _record(row) for row in session.execute(statement).scalars()}


def every(session: ReadSession) -> list[ApiKey]:
    """All keys, oldest first, revoked ones included."""
    return [_record(row) for row in session.execute(sa.select(ApiKeyRow).order_by(ApiKeyRow.id)).scalars()]


def revoke(session: WriteSession, key_id: str, *, now: datetime) -> bool:
    """Refuse this key from now on; False if there is no such key."""
    statement = sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(revoked_at=now).returning(ApiKeyRow.id)
    return session.execute(statement).one_or_none() is not None

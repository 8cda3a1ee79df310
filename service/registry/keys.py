"""API keys: each is recorded by the digest of its secret."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry import paging
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import ApiKey, Page
from service.registry.tables import ApiKeyRow

PREFIX = 8  # characters of an id that are enough to name it


def _record(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        replaced_by=row.replaced_by,
    )


def create(
    session: WriteSession,
    *,
    name: str,
    digest: str,
    scopes: Sequence[str],
    now: datetime,
    expires_at: datetime | None = None,
) -> ApiKey:
    """Record a new key."""
    key_id = _next_id(session)
    row = ApiKeyRow(id=key_id, name=name, digest=digest, scopes=list(scopes), created_at=now, expires_at=expires_at)
    session.add(row)
    session.flush()
    return _record(row)


def _next_id(session: ReadSession) -> str:
    """A UUIDv7 later than every key's, different in its first characters, by which people name keys.

    These are the time, in steps of 65 s: of several keys created in a moment, the later ones get a time in the future.
    """
    own = str(uuid7())
    latest = session.execute(sa.select(ApiKeyRow.id).order_by(ApiKeyRow.id.desc()).limit(1)).scalar()
    if latest is None or latest[:PREFIX] < own[:PREFIX]:
        return own
    return f"{int(latest[:PREFIX], 16) + 1:0{PREFIX}x}{own[PREFIX:]}"


def by_digests(session: ReadSession, digests: Sequence[str]) -> dict[str, ApiKey]:
    """The keys with these digests, by digest; without revoked ones. Some may have expired."""
    statement = sa.select(ApiKeyRow).where(ApiKeyRow.digest.in_(digests), ApiKeyRow.revoked_at.is_(None))
    return {row.digest: _record(row) for row in session.execute(statement).scalars()}


def of_digest(session: ReadSession, digest: str) -> ApiKey | None:
    """The key with this digest, also if it is revoked or has expired."""
    statement = sa.select(ApiKeyRow).where(ApiKeyRow.digest == digest).execution_options(populate_existing=True)
    row = session.execute(statement).scalar_one_or_none()
    return _record(row) if row is not None else None


def get(session: ReadSession, key_id: str) -> ApiKey | None:
    """The key of this id."""
    row = session.get(ApiKeyRow, key_id, populate_existing=True)
    return _record(row) if row is not None else None


def every(session: ReadSession) -> list[ApiKey]:
    """All keys, oldest first, revoked ones included."""
    return [_record(row) for row in session.execute(sa.select(ApiKeyRow).order_by(ApiKeyRow.id)).scalars()]


def page(session: ReadSession, *, limit: int, cursor: str | None) -> Page[ApiKey]:
    """A page of keys, oldest first. Raises Invalid for a cursor that was never returned."""
    statement = sa.select(ApiKeyRow).order_by(ApiKeyRow.id).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(ApiKeyRow.id > paging.decode_id(cursor))
    rows = session.execute(statement).scalars().all()
    return paging.page(rows, limit, item=_record, place=lambda row: row.id)


def revoke(session: WriteSession, key_id: str, *, now: datetime) -> None:
    """Revoke a key; one that is revoked already stays as it is."""
    statement = sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
    session.execute(statement.values(revoked_at=now))


def replace(session: WriteSession, key_id: str, *, by: str, expires_at: datetime) -> None:
    """Record which key replaces this one, and when this one expires."""
    statement = sa.update(ApiKeyRow).where(ApiKeyRow.id == key_id)
    session.execute(statement.values(replaced_by=by, expires_at=expires_at))


def note_use(session: WriteSession, key_ids: Iterable[str], *, now: datetime) -> None:
    """Record that keys were used, unless another replica has recorded a later use."""
    unknown = sa.or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < now)
    statement = sa.update(ApiKeyRow).where(ApiKeyRow.id.in_(sorted(key_ids)), unknown)
    session.execute(statement.values(last_used_at=now))

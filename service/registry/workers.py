"""Worker processes and their heartbeats."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Worker
from service.registry.tables import WorkerRow


def register(session: WriteSession, *, name: str, device: str, now: datetime) -> None:
    """A worker of that name has started; an earlier one of the same name is gone."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.name == name))
    session.add(WorkerRow(name=name, device=device, started_at=now, beat_at=now))
    session.flush()


def beat(session: WriteSession, *, name: str, now: datetime) -> bool:
    """The worker is alive; False if its row is gone."""
    statement = sa.update(WorkerRow).where(WorkerRow.name == name).values(beat_at=now).returning(WorkerRow.name)
    return session.execute(statement).one_or_none() is not None


def leave(session: WriteSession, *, name: str) -> None:
    """The worker has stopped."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.name == name))


def expire(session: WriteSession, *, before: datetime) -> None:
    """Forget workers not heard from since then."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.beat_at < before))


def every(session: ReadSession) -> list[Worker]:
    """All known workers."""
    rows = session.execute(sa.select(WorkerRow).order_by(WorkerRow.name)).scalars()
    return [Worker(row.name, row.beat_at, row.device) for row in rows]

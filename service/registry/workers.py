"""Worker processes: their heartbeats, the queues that they listen to, and their latest notification and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Worker
from service.registry.tables import WorkerRow

DEVICE_CHARACTERS = 200


@dataclass(frozen=True)
class Signs:
    """What a worker reports with every heartbeat: when its last notification came, and its last training began."""

    heard_at: datetime | None = None
    claimed_at: datetime | None = None


def register(session: WriteSession, *, name: str, device: str, queues: Sequence[str], now: datetime) -> None:
    """Record a worker that has started, in place of an earlier one of the same name."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.name == name))
    row = WorkerRow(name=name, device=device[:DEVICE_CHARACTERS], queues=",".join(queues), started_at=now, beat_at=now)
    session.add(row)
    session.flush()


def beat(session: WriteSession, *, name: str, now: datetime, signs: Signs | None = None) -> bool:
    """Record that a worker is alive; False if it has no row."""
    told = signs or Signs()
    values = {"beat_at": now, "heard_at": told.heard_at, "claimed_at": told.claimed_at}
    statement = sa.update(WorkerRow).where(WorkerRow.name == name).values(**values).returning(WorkerRow.name)
    return session.execute(statement).one_or_none() is not None


def leave(session: WriteSession, *, name: str) -> None:
    """Delete a worker's row: it has stopped."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.name == name))


def expire(session: WriteSession, *, before: datetime) -> None:
    """Delete the rows of workers without a heartbeat since then."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.beat_at < before))


def every(session: ReadSession) -> list[Worker]:
    """All recorded workers."""
    rows = session.execute(sa.select(WorkerRow).order_by(WorkerRow.name)).scalars()
    return [
        Worker(
            name=row.name,
            beat_at=row.beat_at,
            device=row.device,
            queues=tuple(row.queues.split(",")),
            heard_at=row.heard_at,
            claimed_at=row.claimed_at,
        )
        for row in rows
    ]

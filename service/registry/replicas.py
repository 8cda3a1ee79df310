"""API processes, and how far their closed-form tiers have come: what of a removed sample may be destroyed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.registry import feed
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Marks, Replica
from service.registry.statements import upsert
from service.registry.tables import ReplicaRow


def register(session: WriteSession, *, name: str, now: datetime) -> Marks:
    """A replica is about to start from the survivors: it needs nothing of those who are gone by now, and whatever of
    those who go from now on.
    """
    leave(session, name=name)
    marks = feed.marks(session)
    session.add(ReplicaRow(name=name, additions=marks.additions, removals=marks.removals, digest=None, beat_at=now))
    session.flush()
    return marks


def report(session: WriteSession, replica: Replica) -> None:
    """The replica is alive and has applied everything up to these marks.

    Also one that had been given up: if something that it needs is gone, it will notice.
    """
    values = {
        "additions": replica.marks.additions,
        "removals": replica.marks.removals,
        "digest": replica.digest,
        "beat_at": replica.beat_at,
    }
    upsert(session, ReplicaRow, {"name": replica.name, **values}, key=["name"], otherwise=values)


def beat(session: WriteSession, *, name: str, now: datetime) -> None:
    """The replica is alive, and still reads the survivors."""
    session.execute(sa.update(ReplicaRow).where(ReplicaRow.name == name).values(beat_at=now))


def leave(session: WriteSession, *, name: str) -> None:
    """The replica needs nothing any more."""
    session.execute(sa.delete(ReplicaRow).where(ReplicaRow.name == name))


def expire(session: WriteSession, *, before: datetime) -> None:
    """Forget replicas not heard from since then."""
    session.execute(sa.delete(ReplicaRow).where(ReplicaRow.beat_at < before))


def every(session: ReadSession) -> list[Replica]:
    """All known replicas."""
    rows: Sequence[ReplicaRow] = session.execute(sa.select(ReplicaRow).order_by(ReplicaRow.name)).scalars().all()
    return [Replica(row.name, row.beat_at, Marks(row.additions, row.removals), row.digest) for row in rows]


def applied(session: ReadSession, *, now: datetime, fresh: timedelta) -> int | None:
    """Removals that every live replica has applied; None if none is alive.

    One that is not heard from may live on: it finds that something is missing, and starts from the survivors.
    """
    return min((r.marks.removals for r in every(session) if r.is_alive(now, fresh)), default=None)

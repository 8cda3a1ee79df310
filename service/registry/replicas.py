"""Replicas (API processes), and how far their closed-form tiers have come: until then removed samples' objects stay."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from service.registry import feed
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Marks, Replica
from service.registry.statements import upsert
from service.registry.tables import ReplicaRow


def register(session: WriteSession, *, name: str, now: datetime) -> Marks:
    """Record a replica that is about to start from the survivors; the present marks.

    It needs the objects of samples that are removed from now on, and of none that was removed before.
    """
    leave(session, name=name)
    marks = feed.marks(session)
    session.add(
        ReplicaRow(
            name=name,
            additions=marks.additions,
            removals=marks.removals,
            digest=None,
            evaluation_removals=0,  # until it reports, nothing is known of what it has let go
            beat_at=now,
        )
    )
    session.flush()
    return marks


def report(session: WriteSession, replica: Replica) -> None:
    """Record that a replica is alive and has applied all changes up to its marks.

    Also for a replica that counted as dead: it notices by itself if a change that it needs is gone.
    """
    values = {
        "additions": replica.marks.additions,
        "removals": replica.marks.removals,
        "digest": replica.digest,
        "evaluation_removals": replica.evaluation_removals,
        "beat_at": replica.beat_at,
    }
    upsert(session, ReplicaRow, {"name": replica.name, **values}, key=["name"], otherwise=values)


def report_adapted(session: WriteSession, *, name: str, marks: Marks | None, digest: str | None) -> None:
    """Record which changes a replica's tier of adapted descriptors has applied, and its digest; None without one."""
    values = {
        "adapted_additions": marks.additions if marks is not None else None,
        "adapted_removals": marks.removals if marks is not None else None,
        "adapted_digest": digest,
    }
    session.execute(sa.update(ReplicaRow).where(ReplicaRow.name == name).values(**values))


def beat(session: WriteSession, *, name: str, now: datetime) -> None:
    """Record that a replica is alive while it still reads the survivors."""
    session.execute(sa.update(ReplicaRow).where(ReplicaRow.name == name).values(beat_at=now))


def leave(session: WriteSession, *, name: str) -> None:
    """Delete a replica's row: it needs no objects any more."""
    session.execute(sa.delete(ReplicaRow).where(ReplicaRow.name == name))


def expire(session: WriteSession, *, before: datetime) -> None:
    """Delete the rows of replicas without a heartbeat since then."""
    session.execute(sa.delete(ReplicaRow).where(ReplicaRow.beat_at < before))


def every(session: ReadSession) -> list[Replica]:
    """All recorded replicas."""
    rows: Sequence[ReplicaRow] = session.execute(sa.select(ReplicaRow).order_by(ReplicaRow.name)).scalars().all()
    return [
        Replica(
            row.name,
            row.beat_at,
            Marks(row.additions, row.removals),
            row.digest,
            row.evaluation_removals,
            _adapted_marks(row),
            row.adapted_digest,
        )
        for row in rows
    ]


def _adapted_marks(row: ReplicaRow) -> Marks | None:
    if row.adapted_additions is None or row.adapted_removals is None:
        return None
    return Marks(row.adapted_additions, row.adapted_removals)


class Applied(NamedTuple):
    """The removals that every live replica has applied, and those of evaluation samples; None: no replica needs any."""

    removals: int | None
    evaluation_removals: int | None


def applied(session: ReadSession, *, now: datetime, fresh: timedelta) -> Applied:
    """What every live replica has applied.

    A silent replica may still run: it will find that changes are missing, and start from the survivors.
    """
    alive = [replica for replica in every(session) if replica.is_alive(now, fresh)]
    let_go = [replica.evaluation_removals for replica in alive if replica.evaluation_removals is not None]
    return Applied(min((one.marks.removals for one in alive), default=None), min(let_go, default=None))

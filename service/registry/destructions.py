"""The queue of objects to be deleted from the store: scheduled by the transaction that gives them up.

An object leaves the queue once it is gone, so an erasure can be completed only after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.registry import states
from service.registry.engine import ReadSession, WriteSession
from service.registry.replicas import Applied
from service.registry.statements import chunked, insert_or_ignore
from service.registry.tables import DestructionRow, ErasureRow, StateRow


def schedule(
    session: WriteSession,
    objects: Sequence[str],
    *,
    erasure_id: str | None = None,
    held_until: datetime | None = None,
) -> None:
    """Put objects into the queue. The erasure given here is not completed before they are gone.

    held_until  they are not due before then, unless the worker that may have stored them lets go (`let_go`).
    """
    if not objects:
        return
    epoch = session.execute(sa.select(StateRow.epoch)).scalar_one()
    for chunk in chunked(objects):
        common = {"erasure_id": erasure_id, "owed_epoch": epoch, "held_until": held_until, "attempts": 0}
        rows = [{"object_name": name, **common} for name in chunk]
        session.execute(insert_or_ignore(session, DestructionRow).values(rows))


def let_go(session: WriteSession, object_name: str) -> None:
    """The worker that might have stored this object has ended, and has nothing of its samples in memory any more."""
    statement = sa.update(DestructionRow).where(DestructionRow.object_name == object_name)
    session.execute(statement.values(held_until=None))


def pending(session: ReadSession) -> list[str]:
    """All objects in the queue."""
    return list(session.execute(sa.select(DestructionRow.object_name)).scalars())


def count(session: ReadSession) -> int:
    """How many objects are in the queue."""
    return session.execute(sa.select(sa.func.count()).select_from(DestructionRow)).scalar_one()


def due(session: ReadSession, *, applied: Applied, now: datetime, lease: timedelta, limit: int = 10_000) -> list[str]:
    """Objects that may be deleted now: those that meet each of these conditions.

    1. If they belong to an erasure, it is planned, or cannot be planned just now. The owner's row is deleted by the
       plan, and the scrub of the database's files that follows the deletion of objects must find it deleted.
    2. If they are of removed samples, every live replica has applied the removal (`replicas.applied`).
    3. If an ended training may have stored them, its worker has let go, or `held_until` is past. A `held_until` more
       than `lease` ahead was written before the clock was set back, and does not count.
    """
    unplanned = sa.exists().where(
        ErasureRow.id == DestructionRow.erasure_id,
        ErasureRow.state == states.WITHDRAWN,  # not a `failed` one, which cannot be planned just now
        ErasureRow.planned_epoch.is_(None),
    )
    in_memory = sa.and_(DestructionRow.held_until > now, DestructionRow.held_until <= now + lease)
    is_let_go = sa.or_(DestructionRow.held_until.is_(None), ~in_memory)
    statement = sa.select(DestructionRow.object_name).where(~unplanned, is_let_go).limit(limit)
    columns = (DestructionRow.removal, DestructionRow.evaluation_removal)
    for removal, most in zip(columns, (applied.removals, applied.evaluation_removals), strict=True):
        if most is not None:
            statement = statement.where(sa.or_(removal.is_(None), removal <= most))
    return list(session.execute(statement).scalars())


def done(session: WriteSession, objects: Sequence[str]) -> None:
    """Take objects that are gone out of the queue."""
    for chunk in chunked(objects):
        session.execute(sa.delete(DestructionRow).where(DestructionRow.object_name.in_(chunk)))


def failed(session: WriteSession, objects: Sequence[str]) -> None:
    """Count a failed attempt at each of these objects; they stay in the queue."""
    for chunk in chunked(objects):
        statement = sa.update(DestructionRow).where(DestructionRow.object_name.in_(chunk))
        session.execute(statement.values(attempts=DestructionRow.attempts + 1))

"""The one row of state: the serving epoch, and what the registry was made with."""

from __future__ import annotations

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Fence, Marks
from service.registry.tables import StateRow


def epoch(session: ReadSession) -> int:
    """The serving epoch: it has changed if anything that is served may have."""
    value: int = session.execute(sa.select(StateRow.epoch)).scalar_one()
    return value


def fence(session: ReadSession) -> Fence:
    """What an answer is checked against: one statement, and one row."""
    columns = (StateRow.epoch, StateRow.additions, StateRow.removals)
    epoch, additions, removals = session.execute(sa.select(*columns)).one()
    return Fence(epoch, Marks(additions, removals))


def bump_epoch(session: WriteSession) -> int:
    """The next serving epoch."""
    statement = sa.update(StateRow).values(epoch=StateRow.epoch + 1).returning(StateRow.epoch)
    value: int = session.execute(statement).scalar_one()
    return value


def made_with(session: ReadSession) -> tuple[str | None, ...]:
    """Digests of backbone, partition and training settings; () for a new registry."""
    columns = (StateRow.backbone_digest, StateRow.partition_digest, StateRow.training_digest)
    row = session.execute(sa.select(*columns)).one_or_none()
    return tuple(row) if row is not None else ()


def ensure(session: WriteSession) -> StateRow:
    """The row, made if this is a new registry."""
    row = session.get(StateRow, 1, with_for_update=True)
    if row is None:
        row = StateRow(id=1, epoch=0, additions=0, removals=0)
        session.add(row)
        session.flush()
    return row

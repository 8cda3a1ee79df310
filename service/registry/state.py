"""The state row: the serving epoch, and the settings that the registry was made with."""

from __future__ import annotations

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Fence, Marks
from service.registry.tables import StateRow

COUNTS = ("additions", "removals", "adapted_additions", "evaluation_additions", "evaluation_removals")


def epoch(session: ReadSession) -> int:
    """The serving epoch: it changes whenever anything that is served may have changed."""
    value: int = session.execute(sa.select(StateRow.epoch)).scalar_one()
    return value


def fence(session: ReadSession) -> Fence:
    """The fence that answers are checked against: one statement, and one row."""
    columns = (StateRow.epoch, StateRow.additions, StateRow.removals)
    epoch, additions, removals = session.execute(sa.select(*columns)).one()
    return Fence(epoch, Marks(additions, removals))


def bump_epoch(session: WriteSession) -> int:
    """Move the serving epoch on; the new one."""
    statement = sa.update(StateRow).values(epoch=StateRow.epoch + 1).returning(StateRow.epoch)
    value: int = session.execute(statement).scalar_one()
    return value


def made_with(session: ReadSession) -> tuple[str | None, ...]:
    """Digests of backbone, partition, training and adapter, and the kind of descriptors; () for a new registry."""
    digests = (StateRow.backbone_digest, StateRow.partition_digest, StateRow.training_digest, StateRow.adapter_digest)
    columns = (*digests, StateRow.descriptor_kind)
    row = session.execute(sa.select(*columns)).one_or_none()
    return tuple(row) if row is not None else ()


def ensure(session: WriteSession) -> StateRow:
    """The state row, created in a new registry."""
    row = session.get(StateRow, 1, with_for_update=True)
    if row is None:
        counts = dict.fromkeys(COUNTS, 0)
        row = StateRow(id=1, epoch=0, **counts)
        session.add(row)
        session.flush()
    return row

"""Which samples' files have a descriptor of which kind: work for `core.redescribe` where it is not the wanted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Role
from service.registry.roles import EVALUATION, held_out, learned
from service.registry.statements import chunked
from service.registry.tables import SampleRow


class Undescribed(NamedTuple):
    """A sample without a descriptor of the wanted kind."""

    id: str
    digest: str


def _otherwise(kind: str) -> sa.ColumnElement[bool]:
    """Three conditions that an index answers, where "different" would read every row."""
    column = SampleRow.descriptor_kind
    return sa.or_(column.is_(None), column < kind, column > kind)


def missing(
    session: ReadSession, kind: str, *, limit: int | None = None, role: Role | None = None
) -> list[Undescribed]:
    """Samples without a descriptor of this kind, at most `limit`; of all roles, or those to learn from, or to measure
    with."""
    statement = sa.select(SampleRow.id, SampleRow.digest).where(_otherwise(kind)).limit(limit)
    if role is not None:
        statement = statement.where(_is(role))
    return [Undescribed(*row) for row in session.execute(statement)]


def among(session: ReadSession, ids: Sequence[str], kind: str, *, role: Role | None = None) -> set[str]:
    """Those of these samples that exist and have no descriptor of this kind; of all roles, or those to
    learn from, or to measure with."""
    found: set[str] = set()
    for chunk in chunked(ids):
        statement = sa.select(SampleRow.id).where(SampleRow.id.in_(chunk), _otherwise(kind))
        found |= set(session.scalars(statement if role is None else statement.where(_is(role))))
    return found


def is_complete(session: ReadSession, kind: str, *, role: Role) -> bool:
    """Whether every sample to learn from, or to measure with, has a descriptor of this kind."""
    return not missing(session, kind, limit=1, role=role)


def _is(role: Role) -> sa.ColumnElement[bool]:
    return held_out() if role == EVALUATION else learned()


def note(session: WriteSession, ids: Sequence[str], kind: str | None) -> None:
    """Record which kind of descriptor these samples' files have; None: they are to be looked into."""
    for chunk in chunked(ids):
        session.execute(sa.update(SampleRow).where(SampleRow.id.in_(chunk)).values(descriptor_kind=kind))

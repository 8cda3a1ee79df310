"""Which samples' files have a descriptor of which kind: work for `core.redescribe` where it is not the wanted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
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


def missing(session: ReadSession, kind: str, *, limit: int | None = None) -> list[Undescribed]:
    """Samples without a descriptor of this kind, at most `limit`."""
    statement = sa.select(SampleRow.id, SampleRow.digest).where(_otherwise(kind)).limit(limit)
    return [Undescribed(*row) for row in session.execute(statement)]


def among(session: ReadSession, ids: Sequence[str], kind: str) -> set[str]:
    """Those of these samples that exist and have no descriptor of this kind."""
    found: set[str] = set()
    for chunk in chunked(ids):
        found |= set(session.scalars(sa.select(SampleRow.id).where(SampleRow.id.in_(chunk), _otherwise(kind))))
    return found


def note(session: WriteSession, ids: Sequence[str], kind: str | None) -> None:
    """Record which kind of descriptor these samples' files have; None: they are to be looked into."""
    for chunk in chunked(ids):
        session.execute(sa.update(SampleRow).where(SampleRow.id.in_(chunk)).values(descriptor_kind=kind))

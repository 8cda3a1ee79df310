"""The feed of added and removed samples, by which a replica brings its closed-form tier up to date.

Two counts on the state row number the changes. They are raised towards the end of the transaction that makes the
change, which keeps the row's lock until it commits, so a reader of a count also sees every change up to it. A reader
knows how many changes it should find; if it finds fewer, some are lost for good (`Changes.complete`) and it must start
from the survivors. Evaluation samples are in no feed (`registry.evaluation`).

What is added is a descriptor of the wanted kind (`kind`, a name): a sample comes with one, and one that is described
anew (`core.redescribe`) is numbered again when it has it. A sample that is removed while it waits for one counts as one
that came and went.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Marks
from service.registry.roles import learned
from service.registry.statements import chunked
from service.registry.tables import DestructionRow, SampleRow, StateRow


class Added(NamedTuple):
    """A sample that a tier must add."""

    id: str
    digest: str
    label: str


@dataclass(frozen=True)
class Changes:
    """The changes between two pairs of marks: added samples that still exist, and objects of removed samples."""

    since: Marks
    now: Marks
    added: tuple[Added, ...]
    removed: tuple[str, ...]

    def complete(self, known: Container[str], *, passed: int = 0) -> bool:
        """Whether no change is missing for a tier that had the sample objects `known` in at `since`.

        passed  samples that were added after `since.additions` and removed by `since.removals`.
        """
        came_and_went = passed + sum(name not in known for name in self.removed)
        return (
            len(self.removed) == self.now.removals - self.since.removals
            and len(self.added) + came_and_went == self.now.additions - self.since.additions
        )


def marks(session: ReadSession) -> Marks:
    """The present marks."""
    return Marks(*session.execute(sa.select(StateRow.additions, StateRow.removals)).one())


def note_additions(session: WriteSession, sample_ids: Sequence[str]) -> None:
    """Number added samples. To be called late in a transaction: other writers wait for the state row until it ends."""
    if not sample_ids:
        return
    statement = sa.update(StateRow).values(additions=StateRow.additions + len(sample_ids))
    mark = session.execute(statement.returning(StateRow.additions)).scalar_one()
    for chunk in chunked(sample_ids):
        session.execute(sa.update(SampleRow).where(SampleRow.id.in_(chunk)).values(addition=mark))


def note_removals(
    session: WriteSession, objects: Sequence[str], *, undescribed: int, beside: Sequence[str] = ()
) -> None:
    """Number removed samples, by their objects, which are scheduled for deletion. To be called late, as additions.

    undescribed  how many of them had no descriptor of the wanted kind.
    beside       further objects that stay as long: the samples' adapted descriptors.
    """
    statement = sa.update(StateRow).values(
        removals=StateRow.removals + len(objects), additions=StateRow.additions + undescribed
    )
    mark = session.execute(statement.returning(StateRow.removals)).scalar_one()
    for chunk in chunked([*objects, *beside]):
        session.execute(sa.update(DestructionRow).where(DestructionRow.object_name.in_(chunk)).values(removal=mark))


def since(session: ReadSession, then: Marks, *, kind: str) -> Changes:
    """The changes since those marks."""
    added = session.execute(_described(kind).where(SampleRow.addition > then.additions)).all()
    gone = removed_since(session, then.removals)
    return Changes(then, marks(session), tuple(Added(*row) for row in added), gone)


def removed_since(session: ReadSession, removals: int) -> tuple[str, ...]:
    """Objects of samples that were removed since that count of removals, and are kept."""
    samples = sa.and_(DestructionRow.removal > removals, DestructionRow.object_name.startswith("samples/"))
    return tuple(session.execute(sa.select(DestructionRow.object_name).where(samples)).scalars())


def everything(session: ReadSession, *, kind: str) -> Changes:
    """All survivors with a descriptor of that kind, as changes since the beginning."""
    rows = session.execute(_described(kind)).all()
    return Changes(Marks(0, 0), marks(session), tuple(Added(*row) for row in rows), ())


def survivors(session: ReadSession, *, additions: int, kind: str) -> tuple[Added, ...]:
    """Samples with such a descriptor that had come by that count of additions and have not been removed."""
    return tuple(Added(*row) for row in session.execute(_described(kind).where(SampleRow.addition <= additions)))


def _described(kind: str) -> sa.Select[str, str, str]:
    """As an expression, so that no index answers it: nearly all samples have this kind, few are new."""
    columns = (SampleRow.id, SampleRow.digest, SampleRow.label)
    return sa.select(*columns).where(learned(), sa.func.coalesce(SampleRow.descriptor_kind, "") == kind)

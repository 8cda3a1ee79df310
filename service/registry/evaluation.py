"""The evaluation set: samples that are measured with and never learned from, and who has let go of removed ones.

Two counts on the state row number its changes, as those of `registry.feed` number the changes of what is learned. The
two pairs are apart: no change of the evaluation set makes a replica's closed form, or its leave-one-out report, old.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.feed import Added
from service.registry.records import Marks, MeasuringMarks
from service.registry.roles import held_out, learned
from service.registry.statements import chunked
from service.registry.tables import DestructionRow, SampleRow, StateRow


def marks(session: ReadSession) -> MeasuringMarks:
    """The present marks, of both kinds of samples: one statement, and one row."""
    row = StateRow
    columns = (row.additions, row.removals, row.evaluation_additions, row.evaluation_removals)
    additions, removals, evaluation_additions, evaluation_removals = session.execute(sa.select(*columns)).one()
    return MeasuringMarks(Marks(additions, removals), Marks(evaluation_additions, evaluation_removals))


def note_additions(session: WriteSession, count: int) -> None:
    """Count added evaluation samples. To be called late, as `feed.note_additions`."""
    if count:
        session.execute(sa.update(StateRow).values(evaluation_additions=StateRow.evaluation_additions + count))


def note_removals(session: WriteSession, objects: Sequence[str]) -> None:
    """Number removed evaluation samples, by their objects, which are scheduled for deletion. To be called late."""
    if not objects:
        return
    statement = sa.update(StateRow).values(evaluation_removals=StateRow.evaluation_removals + len(objects))
    mark = session.execute(statement.returning(StateRow.evaluation_removals)).scalar_one()
    for chunk in chunked(objects):
        gone = sa.update(DestructionRow).where(DestructionRow.object_name.in_(chunk))
        session.execute(gone.values(evaluation_removal=mark))


def survivors(session: ReadSession) -> tuple[Added, ...]:
    """All evaluation samples."""
    columns = (SampleRow.id, SampleRow.digest, SampleRow.label)
    return tuple(Added(*row) for row in session.execute(sa.select(*columns).where(held_out())))


def count(session: ReadSession) -> int:
    """The number of evaluation samples."""
    return session.execute(sa.select(sa.func.count()).where(held_out())).scalar_one()


def also_learned(session: ReadSession, digests: Sequence[str], *, additions: int) -> set[str]:
    """Those of these pictures, by digest, that samples are of which had been learned from by that count of additions.

    Whichever owner they are of: what a picture says of a model that has seen it is not independent.
    """
    found: set[str] = set()
    for chunk in chunked(sorted(set(digests))):
        statement = sa.select(SampleRow.digest).where(SampleRow.digest.in_(chunk), learned())
        found.update(session.execute(statement.where(SampleRow.addition <= additions).distinct()).scalars())
    return found

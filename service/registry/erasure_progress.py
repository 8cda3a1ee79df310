"""How far erasures have come: asked and noted for all of them at once, however many there are.

Two things are followed, independent of each other: whether something still exists that knows the erased samples
(then the erasure is not completed), and whether the clusters that lost their prompts serve again (then it is restored).
An erasure that only waits for a training costs nothing here: only what can change is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import NamedTuple

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.erasures import OPEN
from service.registry.statements import chunked, insert_or_ignore
from service.registry.tables import ClusterRow, DestructionRow, ErasureClusterRow, ErasureRow, PromptRow

FINAL = ("restored", "removed")  # states of an affected cluster that are final


class AffectedCluster(NamedTuple):
    """A cluster that an erasure waits for, and what it is and serves now; `present` is false once it is gone."""

    erasure: str
    cluster: str
    state: str
    planned_epoch: int
    present: bool
    serving_key: str | None
    desired_key: str | None
    published_epoch: int | None  # of the prompt that it serves
    attempts: int


class OpenErasure(NamedTuple):
    """An erasure that is not completed, or not restored, and how many of its clusters are not settled."""

    id: str
    state: str
    planned_epoch: int
    accepted_at: datetime
    completed_at: datetime | None
    restored_at: datetime | None
    ledgered: bool
    ledger_attempts: int  # to write its tombstone, that have failed
    unfinished: int


class ClusterChange(NamedTuple):
    """What is to be noted of a touched cluster."""

    erasure: str
    cluster: str
    state: str
    prompt_after: str | None


class ErasureChange(NamedTuple):
    """What is to be noted of an erasure; `completed_after` is how long it took, if it is completed by this."""

    id: str
    state: str
    completed_after: timedelta | None
    completed_at: datetime | None
    restored_at: datetime | None


@dataclass(frozen=True)
class Destructions:
    """What is still to be destroyed: how often that has failed, by erasure and by the epoch it was owed since."""

    own: Mapping[str, int]
    epochs: Sequence[int]  # ascending, of prompts and layouts
    worst: Sequence[int]  # failures of the worst of those up to the same place

    def failures(self, erasure: str, planned_epoch: int) -> int | None:
        """How often destroying what an erasure waits for has failed; None once all of it is gone.

        Beside its own samples it waits for every prompt and layout that was owed to destruction before it was planned:
        whichever event withdrew them, they may have been built from its samples.
        """
        before = bisect_right(self.epochs, planned_epoch)
        failures = [self.own[erasure]] if erasure in self.own else []
        failures += [self.worst[before - 1]] if before else []
        return max(failures, default=None)


def destructions(session: ReadSession) -> Destructions:
    """What is still to be destroyed."""
    own = sa.select(DestructionRow.erasure_id, sa.func.max(DestructionRow.attempts))
    by_erasure = session.execute(own.where(DestructionRow.erasure_id.is_not(None)).group_by(DestructionRow.erasure_id))
    built = sa.select(DestructionRow.owed_epoch, sa.func.max(DestructionRow.attempts))
    built = built.where(~DestructionRow.object_name.startswith("samples/"))
    by_epoch = session.execute(built.group_by(DestructionRow.owed_epoch).order_by(DestructionRow.owed_epoch)).all()
    own_failures = {row[0]: row[1] for row in by_erasure if row[0] is not None}
    return Destructions(own_failures, [row[0] for row in by_epoch], list(accumulate((row[1] for row in by_epoch), max)))


def affected_clusters(session: ReadSession, *, attempts: int) -> list[AffectedCluster]:
    """Clusters of planned erasures that are not restored, of which something new may be said.

    attempts  failed trainings after which a cluster counts as failed.
    """
    columns = (
        ErasureClusterRow.erasure_id,
        ErasureClusterRow.cluster_id,
        ErasureClusterRow.state,
        _planned_epoch(),
        ClusterRow.id.is_not(None),
        ClusterRow.serving_key,
        ClusterRow.desired_key,
        PromptRow.published_epoch,
        sa.func.coalesce(ClusterRow.attempts, 0),
    )
    statement = (
        sa.select(*columns)
        .join(ErasureRow, ErasureRow.id == ErasureClusterRow.erasure_id)
        .outerjoin(ClusterRow, ClusterRow.id == ErasureClusterRow.cluster_id)
        .outerjoin(PromptRow, PromptRow.key == ClusterRow.serving_key)
        .where(
            *_UNRESTORED,
            ErasureClusterRow.state.not_in(FINAL),
            sa.or_(
                ClusterRow.id.is_(None),
                ClusterRow.serving_key.is_not(None),
                sa.and_(ClusterRow.attempts >= attempts, ErasureClusterRow.state != "failed"),
                sa.and_(ClusterRow.attempts < attempts, ErasureClusterRow.state != "retraining"),
            ),
        )
    )
    return [AffectedCluster(*row) for row in session.execute(statement)]


def open_erasures(session: ReadSession) -> list[OpenErasure]:
    """Planned erasures of which something new may be said: all but those that only wait for a training."""
    unfinished = sa.func.count().filter(ErasureClusterRow.state.not_in(FINAL))
    row = ErasureRow
    columns = (row.id, row.state, _planned_epoch(), row.accepted_at, row.completed_at, row.restored_at)
    statement = (
        sa.select(*columns, row.ledgered, row.ledger_attempts, unfinished)
        .outerjoin(ErasureClusterRow, ErasureClusterRow.erasure_id == ErasureRow.id)
        .where(*_UNRESTORED_OR_OPEN)
        .group_by(*columns, row.ledgered, row.ledger_attempts)
        .having(sa.or_(row.state.in_(OPEN), unfinished == 0))
        .order_by(ErasureRow.id)
    )
    return [OpenErasure(*row) for row in session.execute(statement)]


_UNRESTORED = (ErasureRow.restored_at.is_(None), ErasureRow.planned_epoch.is_not(None))
_UNRESTORED_OR_OPEN = (
    sa.or_(ErasureRow.restored_at.is_(None), ErasureRow.state.in_(OPEN)),
    ErasureRow.planned_epoch.is_not(None),
)


def _planned_epoch() -> sa.ColumnElement[int]:
    """Of an erasure that has been planned."""
    return sa.func.coalesce(ErasureRow.planned_epoch, 0)


def note_clusters(session: WriteSession, changes: Iterable[ClusterChange]) -> None:
    """How far touched clusters have come."""
    place = (ErasureClusterRow.erasure_id, ErasureClusterRow.cluster_id)
    statement = sa.update(ErasureClusterRow).where(*(c == sa.bindparam(f"of_{c.key}") for c in place))
    rows = [
        {"of_erasure_id": c.erasure, "of_cluster_id": c.cluster, "now": c.state, "key": c.prompt_after} for c in changes
    ]
    if rows:
        noted = statement.values(state=sa.bindparam("now"), prompt_after=sa.bindparam("key"))
        session.connection().execute(noted, rows)


def note_erasures(session: WriteSession, changes: Iterable[ErasureChange]) -> None:
    """How far erasures have come."""
    statement = sa.update(ErasureRow).where(ErasureRow.id == sa.bindparam("of_id"))
    rows = [
        {"of_id": change.id, "now": change.state, "done": change.completed_at, "back": change.restored_at}
        for change in changes
    ]
    if rows:
        values = {
            "state": sa.bindparam("now"),
            "completed_at": sa.bindparam("done", type_=ErasureRow.completed_at.type),
            "restored_at": sa.bindparam("back", type_=ErasureRow.restored_at.type),
        }
        session.connection().execute(statement.values(**values), rows)


def note_plan(session: WriteSession, *, epoch: int, changed: Mapping[str, set[str]]) -> None:
    """A plan has been made; `changed`: clusters that it has changed, each with those that its samples came from.

    Erasures accepted since the last plan answer for everything that this one has changed. An older one answers for
    where the samples of its clusters have gone, while those were not served yet.
    """
    unplanned = (ErasureRow.state.in_(OPEN), ErasureRow.planned_epoch.is_(None))
    new = list(session.execute(sa.select(ErasureRow.id).where(*unplanned)).scalars())
    answers = {(erasure, cluster) for erasure in new for cluster in changed}
    successors = _successors(changed)
    for erasure, cluster in _unfinished_in(session, list(successors)):
        answers |= {(erasure, successor) for successor in successors[cluster]}
    _add_affected(session, sorted(answers))
    session.execute(sa.update(ErasureRow).where(*unplanned).values(state="withdrawn", planned_epoch=epoch))


def note_planned(session: WriteSession, erasure_id: str, *, epoch: int) -> None:
    """An erasure that no plan has to take note of."""
    statement = sa.update(ErasureRow).where(ErasureRow.id == erasure_id)
    session.execute(statement.values(planned_epoch=epoch))


def fail_unplanned(session: WriteSession) -> None:
    """Nothing can be planned just now: erasures that wait for it say so."""
    unplanned = sa.update(ErasureRow).where(ErasureRow.state.in_(OPEN), ErasureRow.planned_epoch.is_(None))
    session.execute(unplanned.values(state="failed"))


def _successors(changed: Mapping[str, set[str]]) -> dict[str, set[str]]:
    successors: dict[str, set[str]] = {}
    for cluster, sources in changed.items():
        for source in sources:
            successors.setdefault(source, set()).add(cluster)
    return successors


def _unfinished_in(session: ReadSession, clusters: Sequence[str]) -> list[tuple[str, str]]:
    """(erasure, cluster) of older erasures that are not restored for want of one of these clusters."""
    found: list[tuple[str, str]] = []
    columns = (ErasureClusterRow.erasure_id, ErasureClusterRow.cluster_id)
    statement = (
        sa.select(*columns)
        .join(ErasureRow, ErasureRow.id == ErasureClusterRow.erasure_id)
        .where(*_UNRESTORED, ErasureClusterRow.state.not_in(FINAL))
    )
    for chunk in chunked(clusters):
        concerned = statement.where(ErasureClusterRow.cluster_id.in_(chunk))
        found += [(row[0], row[1]) for row in session.execute(concerned)]
    return found


def _add_affected(session: WriteSession, places: Sequence[tuple[str, str]]) -> None:
    """Add clusters that erasures turn out to change as well."""
    for chunk in chunked(places):
        rows = [{"erasure_id": erasure, "cluster_id": cluster, "state": "withdrawn"} for erasure, cluster in chunk]
        session.execute(insert_or_ignore(session, ErasureClusterRow).values(rows))

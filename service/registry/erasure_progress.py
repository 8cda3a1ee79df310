"""Progress of erasures: read and recorded for all of them at once, however many there are.

Two things are followed, independent of each other: whether something still exists that knows the erased samples
(then the erasure is not completed), and whether the clusters that lost their prompts serve again (then it is restored).
An erasure that only waits for a training costs nothing here: only rows that can change are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.statements import chunked, insert_or_ignore
from service.registry.states import FAILED, FINAL, OPEN, RETRAINING, WITHDRAWN, set_state
from service.registry.tables import ClusterRow, DestructionRow, ErasureClusterRow, ErasureRow, PromptRow


class AffectedCluster(NamedTuple):
    """A cluster that an erasure affects, and what it serves now; `present` is false once it is gone."""

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
    """An open erasure, or a completed one that is not restored; `unfinished` of its clusters are in no final state."""

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
    """A change of an affected cluster that is to be recorded."""

    erasure: str
    cluster: str
    before: str
    state: str
    prompt_after: str | None


class ErasureChange(NamedTuple):
    """A change of an erasure that is to be recorded; `completed_after` is how long it took, if this completes it."""

    id: str
    before: str
    state: str
    completed_after: timedelta | None
    completed_at: datetime | None
    restored_at: datetime | None


Change = TypeVar("Change", ClusterChange, ErasureChange)


@dataclass(frozen=True)
class Destructions:
    """Failed attempts of pending deletions, by erasure and by the epoch that they were scheduled at."""

    own: Mapping[str, int]
    epochs: Sequence[int]  # ascending, of prompts and layouts
    worst: Sequence[int]  # failures of the worst of those up to the same place

    def failures(self, erasure: str, planned_epoch: int) -> int | None:
        """Failed attempts at the deletions that an erasure waits for; None once all are done.

        Beside its own samples it waits for every prompt and layout whose deletion was scheduled before it was planned:
        they may have been built from its samples, whichever event withdrew them.
        """
        before = bisect_right(self.epochs, planned_epoch)
        failures = [self.own[erasure]] if erasure in self.own else []
        failures += [self.worst[before - 1]] if before else []
        return max(failures, default=None)


def destructions(session: ReadSession) -> Destructions:
    """Failed attempts of all pending deletions."""
    own = sa.select(DestructionRow.erasure_id, sa.func.max(DestructionRow.attempts))
    by_erasure = session.execute(own.where(DestructionRow.erasure_id.is_not(None)).group_by(DestructionRow.erasure_id))
    built = sa.select(DestructionRow.owed_epoch, sa.func.max(DestructionRow.attempts))
    built = built.where(~DestructionRow.object_name.startswith("samples/"))
    by_epoch = session.execute(built.group_by(DestructionRow.owed_epoch).order_by(DestructionRow.owed_epoch)).all()
    own_failures = {row[0]: row[1] for row in by_erasure if row[0] is not None}
    return Destructions(own_failures, [row[0] for row in by_epoch], list(accumulate((row[1] for row in by_epoch), max)))


def affected_clusters(session: ReadSession, *, attempts: int) -> list[AffectedCluster]:
    """Clusters of planned erasures that are not restored, and whose state may have to change.

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
                sa.and_(ClusterRow.attempts >= attempts, ErasureClusterRow.state != FAILED),
                sa.and_(ClusterRow.attempts < attempts, ErasureClusterRow.state != RETRAINING),
            ),
        )
    )
    return [AffectedCluster(*row) for row in session.execute(statement)]


def open_erasures(session: ReadSession) -> list[OpenErasure]:
    """Planned erasures that are open, and completed ones of which every cluster has come to a final state."""
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
    """Record the states of affected clusters, one statement for each kind of change."""
    place = (ErasureClusterRow.erasure_id, ErasureClusterRow.cluster_id)
    same = [column == sa.bindparam(f"of_{column.key}") for column in place]
    values: dict[str, Any] = {"prompt_after": sa.bindparam("key")}
    for (before, state), group in _by_change(changes).items():
        rows = [{"of_erasure_id": c.erasure, "of_cluster_id": c.cluster, "key": c.prompt_after} for c in group]
        set_state(session, ErasureClusterRow, [before], state, *same, values=values, parameters=rows)


def note_erasures(session: WriteSession, changes: Iterable[ErasureChange]) -> None:
    """Record the states of erasures, one statement for each kind of change."""
    same = ErasureRow.id == sa.bindparam("of_id")
    values = {
        "completed_at": sa.bindparam("done", type_=ErasureRow.completed_at.type),
        "restored_at": sa.bindparam("back", type_=ErasureRow.restored_at.type),
    }
    for (before, state), group in _by_change(changes).items():
        rows = [{"of_id": c.id, "done": c.completed_at, "back": c.restored_at} for c in group]
        set_state(session, ErasureRow, [before], state, same, values=values, parameters=rows)


def _by_change(changes: Iterable[Change]) -> dict[tuple[str, str], list[Change]]:
    """The changes, by state before and after."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.before, change.state), []).append(change)
    return groups


def note_plan(session: WriteSession, *, epoch: int, changed: Mapping[str, set[str]]) -> None:
    """Record that a plan was made.

    Erasures accepted since the last plan affect every cluster that this plan has changed. An older erasure also affects
    the clusters that took over samples of its own clusters, where those did not serve yet.

    changed  clusters that the plan has changed, each with those that its samples came from.
    """
    unplanned = ErasureRow.planned_epoch.is_(None)
    new = list(session.execute(sa.select(ErasureRow.id).where(ErasureRow.state.in_(OPEN), unplanned)).scalars())
    answers = {(erasure, cluster) for erasure in new for cluster in changed}
    successors = _successors(changed)
    for erasure, cluster in _unfinished_in(session, list(successors)):
        answers |= {(erasure, successor) for successor in successors[cluster]}
    _add_affected(session, sorted(answers))
    set_state(session, ErasureRow, OPEN, WITHDRAWN, unplanned, values={"planned_epoch": epoch})


def note_planned(session: WriteSession, erasure_id: str, *, epoch: int) -> None:
    """Record that an erasure needs no plan."""
    statement = sa.update(ErasureRow).where(ErasureRow.id == erasure_id)
    session.execute(statement.values(planned_epoch=epoch))


def fail_unplanned(session: WriteSession) -> None:
    """Mark erasures that wait for a plan as failed, while none can be made."""
    set_state(session, ErasureRow, OPEN, FAILED, ErasureRow.planned_epoch.is_(None))


def _successors(changed: Mapping[str, set[str]]) -> dict[str, set[str]]:
    successors: dict[str, set[str]] = {}
    for cluster, sources in changed.items():
        for source in sources:
            successors.setdefault(source, set()).add(cluster)
    return successors


def _unfinished_in(session: ReadSession, clusters: Sequence[str]) -> list[tuple[str, str]]:
    """(erasure, cluster) of older erasures that are not restored because one of these clusters does not serve."""
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
    """Record that erasures affect these clusters too."""
    for chunk in chunked(places):
        rows = [{"erasure_id": erasure, "cluster_id": cluster, "state": WITHDRAWN} for erasure, cluster in chunk]
        session.execute(insert_or_ignore(session, ErasureClusterRow).values(rows))

"""States of erasures and of clusters: their names, the legal changes, and `set_state`, which alone makes them.

An erasure is `completed` once nothing exists any more that knows its samples, whether or not the clusters that lost
their prompts serve new ones: an affected cluster that does is `restored`. The state of a cluster itself is not stored,
but follows from its row: `cluster_state`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from service.registry.engine import WriteSession
from service.registry.records import Cluster
from service.registry.tables import ErasureClusterRow, ErasureRow

WITHDRAWN = "withdrawn"
COMPLETED = "completed"
FAILED = "failed"
RETRAINING = "retraining"  # of an affected cluster, from its plan until it serves again
RESTORED = "restored"  # of an affected cluster: it serves a prompt that was built without the erased samples
REMOVED = "removed"  # of an affected cluster: no survivor is left in it, or its members joined others
EMPTY = "empty"
TRAINING = "training"
SERVING = "serving"
CLUSTER_STATES = (EMPTY, TRAINING, SERVING, WITHDRAWN, FAILED)

OPEN = (WITHDRAWN, FAILED)  # of erasures
FINAL = (RESTORED, REMOVED)  # of affected clusters

# An erasure ends in COMPLETED and nowhere else: a failed one is tried again.
ERASURE_CHANGES = {
    WITHDRAWN: {COMPLETED, FAILED},
    FAILED: {WITHDRAWN, COMPLETED},
    COMPLETED: set[str](),
}
AFFECTED_CHANGES = {
    WITHDRAWN: {RETRAINING, FAILED, RESTORED, REMOVED},
    RETRAINING: {FAILED, RESTORED, REMOVED},
    FAILED: {RETRAINING, RESTORED, REMOVED},
    RESTORED: set[str](),
    REMOVED: set[str](),
}


def may_change(before: str, after: str) -> bool:
    """Whether an erasure may go from one state to another."""
    return after in ERASURE_CHANGES[before]


def set_state(
    session: WriteSession,
    table: type[ErasureRow] | type[ErasureClusterRow],
    expected: Collection[str],
    new: str,
    *where: sa.ColumnElement[bool],
    values: Mapping[str, Any] | None = None,
    parameters: Sequence[Mapping[str, object]] | None = None,
) -> None:
    """Change the state of erasures, or of clusters that they affect: those in a state of `expected` become `new`.

    Raises ValueError for a change that is not legal; `new` may be among `expected`, for rows that keep their state.

    where       which rows of `table`.
    values      other columns that are set with the state.
    parameters  of `where` and `values`, one mapping for each row; None if they have none.
    """
    legal = ERASURE_CHANGES if table is ErasureRow else AFFECTED_CHANGES
    if illegal := [before for before in expected if new != before and new not in legal[before]]:
        raise ValueError(f"{table.__tablename__}: {', '.join(illegal)} cannot become {new}")
    found = sa.or_(*(table.state == before for before in expected))
    statement = sa.update(table).where(*where, found).values(state=new, **(values or {}))
    if parameters is None:
        session.execute(statement)
    elif parameters:
        session.connection().execute(statement, parameters)


def cluster_state(cluster: Cluster, *, now: datetime, attempts: int) -> str:
    """The state that the API shows: empty, training, serving, withdrawn or failed."""
    leased = cluster.leased_until is not None and cluster.leased_until > now
    return state_of(
        empty=cluster.samples == 0,
        failing=cluster.attempts >= attempts and cluster.differs,
        serving=cluster.serving_key is not None,
        withdrawn=cluster.withdrawn_at is not None and not leased,
    )


def state_of(*, empty: bool, failing: bool, serving: bool, withdrawn: bool) -> str:
    """The state of a cluster, by what it depends on."""
    if empty:
        return EMPTY
    if failing:
        return FAILED
    if serving:
        return SERVING
    return WITHDRAWN if withdrawn else TRAINING

"""Names of states, and the one table of legal changes.

An erasure is `completed` once nothing exists any more that knows its samples, whether or not the clusters that lost
their prompts serve new ones: a touched cluster that does is `restored`.
"""

from __future__ import annotations

from datetime import datetime

from service.registry.records import Cluster

WITHDRAWN = "withdrawn"
COMPLETED = "completed"
FAILED = "failed"
RETRAINING = "retraining"  # of a touched cluster, from its plan until it serves again
RESTORED = "restored"  # of a touched cluster: it serves a prompt that was built without the erased samples
EMPTY = "empty"
TRAINING = "training"
SERVING = "serving"
CLUSTER_STATES = (EMPTY, TRAINING, SERVING, WITHDRAWN, FAILED)
REMOVED = "removed"  # of a touched cluster: no survivor is left in it, or its members joined others

# An erasure ends in COMPLETED and nowhere else: a failed one is tried again.
ERASURE_CHANGES = {
    WITHDRAWN: {COMPLETED, FAILED},
    FAILED: {WITHDRAWN, COMPLETED},
    COMPLETED: set[str](),
}


def may_change(before: str, after: str) -> bool:
    """Whether an erasure may go from one state to another."""
    return after in ERASURE_CHANGES[before]


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
    """The same, told by what it depends on."""
    if empty:
        return EMPTY
    if failing:
        return FAILED
    if serving:
        return SERVING
    return WITHDRAWN if withdrawn else TRAINING

"""The registry's transactions, as functions of a state. Each is one step: a transaction happens whole or not at all.

Named after what they mirror, in service.core and service.registry; read beside them.
"""

from __future__ import annotations

from tests.formal.books import (
    ATTEMPTS,
    CLAIMED,
    COMPLETED,
    FREE,
    KEYS,
    OWN,
    VANISHED,
    WITHDRAWN,
    B,
    Cluster,
    Erasure,
    Lease,
    Safeguard,
    Scope,
    State,
    Worker,
    epoch_moved,
    notified,
    with_cluster,
    with_worker,
    without_lease,
    without_prompt,
)

# ------------------------------------------------------------------------------------------------------------- people


def add(scope: Scope, state: State, sample: int) -> State:
    """intake.take_in: a training under way goes on. The API wakes the reconciler."""
    row = state.clusters[B]
    state = with_cluster(state, B, row._replace(members=row.members | sample, unplanned=True))
    return notified(scope, state._replace(known=state.known | sample))


def accept(scope: Scope, state: State, asked: int) -> State:
    """erasure._erase: rows gone, prompts withdrawn, leases ended, the epoch moved, the rest owed."""
    deletions = asked << OWN
    affected = 0
    for index, row in enumerate(state.clusters):
        if row.members & asked:
            affected |= 1 << index
            if row.lease is not None and not scope.lacks(Safeguard.FENCING):
                deletions |= row.lease.stored
                state = without_lease(state, index)
            gone = state.clusters[index]._replace(members=row.members & ~asked, desired=0, unplanned=True, attempts=0)
            state = with_cluster(state, index, gone)
        if row.serving & asked and not scope.lacks(Safeguard.WITHDRAWAL):
            deletions |= row.serving
            state = without_prompt(state, index)
            if not scope.lacks(Safeguard.EPOCH):
                state = epoch_moved(state)
    erasure = Erasure(asked, WITHDRAWN, planned=False, pending=affected, later=0, deletions=deletions)
    return notified(scope, state._replace(erasures=(*state.erasures, erasure), accepted=state.accepted + 1))


# -------------------------------------------------------------------------------------------------------- reconciling


def is_to_plan(row: Cluster) -> bool:
    """clusters._to_plan."""
    return row.unplanned and (not row.desired or row.lease is None or row.lease.expired)


def replan(scope: Scope, state: State) -> State:
    """replan.replan, with regions that never change but for one that is empty, which vanishes."""
    for index, row in enumerate(state.clusters):
        if not is_to_plan(row):
            continue
        if row.members:
            state = with_cluster(state, index, row._replace(desired=row.members, unplanned=False))
            if KEYS[row.members] == KEYS[row.serving]:  # built already: adopted
                state = epoch_moved(state)
        else:
            stored = row.lease.stored if row.lease is not None else 0
            state = with_cluster(without_lease(state, index), index, VANISHED)._replace(
                deletions=state.deletions | stored
            )
            rows = tuple(e._replace(pending=e.pending & ~(1 << index)) for e in state.erasures)
            state = state._replace(erasures=rows)
    older = state.deletions
    for erasure in state.erasures:
        older |= erasure.deletions
    if scope.lacks(Safeguard.OLDER):
        older = 0
    return state._replace(
        erasures=tuple(
            e if e.planned else e._replace(planned=True, deletions=e.deletions | older & e.samples)
            for e in state.erasures
        )
    )


def destroy(state: State) -> State:
    """reconcile.destroy_owed: all but the objects of erasures that are not planned yet."""
    rows = tuple(e._replace(deletions=0) if e.deletions and e.planned else e for e in state.erasures)
    return state._replace(deletions=0, erasures=rows)


def advance(scope: Scope, state: State) -> State:
    """core.erasure_progress: complete planned erasures that owe nothing; note which of their clusters serve again."""
    still = []
    completed, undone = state.completed, state.deletions
    for erasure in state.erasures:
        if not erasure.planned:
            still.append(erasure)
            continue
        pending = _pending(state, erasure)
        waits = (erasure.deletions and not scope.lacks(Safeguard.DESTRUCTION)) or (
            pending and scope.lacks(Safeguard.APART)
        )
        if not waits:
            completed |= erasure.samples
            undone |= erasure.deletions
            erasure = erasure._replace(state=COMPLETED, deletions=0)
        if pending or erasure.state != COMPLETED:
            still.append(erasure._replace(pending=pending, later=erasure.later & pending))
    return state._replace(erasures=tuple(still), completed=completed, deletions=undone)


def _pending(state: State, erasure: Erasure) -> int:
    """Clusters that do not serve again yet what was built without its samples."""
    pending = erasure.pending
    for index, row in enumerate(state.clusters):
        bit = 1 << index
        if row.serving and (erasure.later & bit or KEYS[row.serving] == KEYS[row.desired]):
            pending &= ~bit
    return pending


# ----------------------------------------------------------------------------------------------------------- training


def is_waiting(row: Cluster) -> bool:
    """clusters._waiting: work to do is a row where desired and served differ."""
    differs = row.desired and KEYS[row.desired] != KEYS[row.serving]
    return bool(differs) and (row.lease is None or row.lease.expired)


def claim(scope: Scope, state: State, number: int, index: int) -> State:
    """training._claim: a lease of one's own, and an expired one's object owed."""
    row = state.clusters[index]
    left = row.lease.stored if row.lease is not None else 0
    if scope.lacks(Safeguard.REPLACED):
        state = state._replace(lost=state.lost | left)
    else:
        state = state._replace(deletions=state.deletions | left)
    state = without_lease(state, index)
    state = with_cluster(state, index, row._replace(lease=Lease(alive=True, expired=False, stored=0)))
    return with_worker(state, number, Worker(CLAIMED, index, row.desired, holds=True))


def may_publish(scope: Scope, state: State, worker: Worker) -> bool:
    """prompts.insert, whose key is unique, and clusters.publish, the compare-and-swap."""
    row = state.clusters[worker.cluster]
    if KEYS[row.serving] == KEYS[worker.members]:
        return False
    return scope.lacks(Safeguard.SWAP) or (worker.holds and KEYS[row.desired] == KEYS[worker.members])


def publish(scope: Scope, state: State, number: int) -> State:
    """training._publish: the prompt that it replaces is owed. Then the worker looks and notifies."""
    worker = state.workers[number]
    row, bit = state.clusters[worker.cluster], 1 << worker.cluster
    state = without_lease(state, worker.cluster)
    state = with_cluster(state, worker.cluster, row._replace(serving=worker.members, lease=None, attempts=0))
    rows = tuple(e._replace(later=e.later | (bit & e.pending)) if e.planned else e for e in state.erasures)
    state = epoch_moved(state._replace(erasures=rows, deletions=state.deletions | row.serving))
    return notified(scope, with_worker(state, number, FREE))


def give_back(scope: Scope, state: State, number: int, *, failed: bool = False) -> State:
    """clusters.give_up and clusters.fail: nothing changes if the lease was lost. Then the worker looks and notifies."""
    worker = state.workers[number]
    if worker.holds:
        row = state.clusters[worker.cluster]
        attempts = min(row.attempts + failed, ATTEMPTS)
        state = with_cluster(state, worker.cluster, row._replace(lease=None, attempts=attempts))
    return notified(scope, with_worker(state, number, FREE))


def discard(state: State, index: int) -> State:
    """snapshot._load: the artifact is damaged or missing."""
    served = state.clusters[index].serving
    return epoch_moved(without_prompt(state, index))._replace(deletions=state.deletions | served)

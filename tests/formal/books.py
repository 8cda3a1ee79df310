"""What the model remembers: the registry's rows, the store's objects, and what the processes have in hand.

Everything is a small immutable tuple. A set of samples is a bit mask; so is a prompt, which is what it was built from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

A, B = 0, 1
CLUSTERS = "AB"
# Samples 0 and 1 belong to cluster A, 2 and 3 to B. The last two are the same picture with the same label: a prompt
# of either has the same key. One owner gave 0 and 2.
PICTURES = "abcc"
HOME = (A, A, B, B)
OWNER = 0b0101
KEYS = tuple("".join(PICTURES[i] for i in range(4) if mask >> i & 1) for mask in range(16))

OWN = 4  # bits by which a sample's own object is told apart from the prompts that have seen it

ATTEMPTS = 1  # failures after which a cluster, or an erasure whose objects the store refuses to destroy, has failed
UNLIMITED = -1

WITHDRAWN, COMPLETED, FAILED = "withdrawn", "completed", "failed"
AT_REST, CLAIMED, TRAINED, STORING, LANDED = "at rest", "claimed", "trained", "storing", "landed"


class Safeguard(StrEnum):
    """What the service's promises stand on; a scope without one must be found out."""

    SWAP = "publishing is a compare-and-swap"
    FENCING = "an erasure ends the leases of its clusters"
    WITHDRAWAL = "an erasure withdraws the prompts that have seen its samples"
    EPOCH = "a withdrawal moves the serving epoch"
    RECHECK = "a batch checks the epoch again before it answers"
    REPLACED = "a claim owes the destruction of what an expired lease has stored"
    DESTRUCTION = "an erasure is not completed before its objects are destroyed"
    TIMER = "reconciling has a timer"
    APART = "an erasure is completed whether or not its clusters serve again"
    OLDER = "an erasure waits for prompts that were owed to destruction before it was planned"
    # The service relies on this and cannot see to it: tests/formal/test_lifecycle.py, "known limit".
    CONNECTION = "a transaction lasts until the object that it stores is there"


@dataclass(frozen=True)
class Scope:
    """How much may happen. `at_first` and `coming` are samples that are there at first, and that may be added.

    faults   how many things may go wrong in one history; UNLIMITED is no burden, the states are finite anyway.
    answers  whether a replica answers requests meanwhile.
    """

    name: str
    at_first: int
    coming: int
    erasures: int = 2
    messages: int = 2
    faults: int = UNLIMITED
    answers: bool = False
    without: frozenset[Safeguard] = frozenset()

    def lacks(self, safeguard: Safeguard) -> bool:
        """Whether this safeguard has been taken away."""
        return safeguard in self.without


class Lease(NamedTuple):
    """Of a worker that has the cluster in hand, or of one that has died. `stored`: what the dead one left."""

    alive: bool
    expired: bool
    stored: int


class Cluster(NamedTuple):
    """A row of `clusters`. `desired` and `serving` are the members of a prompt, 0 for none."""

    members: int
    desired: int = 0
    serving: int = 0
    unplanned: bool = True
    lease: Lease | None = None
    attempts: int = 0


class Worker(NamedTuple):
    """A worker's claim. `holds`: the lease on record is its own; if not, it is late or fenced off."""

    step: str
    cluster: int
    members: int
    holds: bool


class Erasure(NamedTuple):
    """An erasure that is not completed, or not restored.

    planned  a plan has taken note of it
    pending  clusters (bits) that do not serve again yet
    later    those of them that serve a prompt published after this erasure was planned
    deletions  samples that prompts to be destroyed have seen, and (shifted by OWN) those whose own objects must go
    """

    samples: int
    state: str
    planned: bool
    pending: int
    later: int
    deletions: int


class Batch(NamedTuple):
    """Requests being answered with a prompt. `stale`: the serving epoch has moved since."""

    members: int
    stale: bool


class State(NamedTuple):
    """All of it. `deletions`: as an erasure's, of objects that no erasure waits for; `lost`: of unknown ones."""

    clusters: tuple[Cluster, Cluster]
    workers: tuple[Worker, Worker]
    erasures: tuple[Erasure, ...]
    accepted: int
    known: int
    completed: int
    deletions: int
    lost: int
    messages: int
    batch: Batch | None
    faults: int

    @property
    def survivors(self) -> int:
        """Samples that are held."""
        return self.clusters[A].members | self.clusters[B].members

    @property
    def erased(self) -> int:
        """Samples that were held."""
        return self.known & ~self.survivors


FREE = Worker(AT_REST, 0, 0, False)
VANISHED = Cluster(0, unplanned=False)


def initial(scope: Scope) -> State:
    """Samples have come and a worker has been notified of them; nothing else has happened yet."""
    in_a, in_b = scope.at_first & 0b0011, scope.at_first & 0b1100
    clusters = (Cluster(in_a) if in_a else VANISHED, Cluster(in_b) if in_b else VANISHED)
    return State(
        clusters,
        (FREE, FREE),
        (),
        0,
        scope.at_first,
        completed=0,
        deletions=0,
        lost=0,
        messages=1,
        batch=None,
        faults=scope.faults,
    )


def canonical(state: State) -> State:
    """The same state, with what is interchangeable in order: the two workers, and erasures."""
    first, second = state.workers
    if first > second:
        state = state._replace(workers=(second, first))
    rows = tuple(sorted(state.erasures))
    return state if rows == state.erasures else state._replace(erasures=rows)


def with_cluster(state: State, index: int, cluster: Cluster) -> State:
    """The state with this row in place of the cluster's."""
    a, b = state.clusters
    return state._replace(clusters=(cluster, b) if index == A else (a, cluster))


def with_worker(state: State, index: int, worker: Worker) -> State:
    """The state with this claim in place of the worker's."""
    first, second = state.workers
    return state._replace(workers=(worker, second) if index == 0 else (first, worker))


def without_lease(state: State, index: int) -> State:
    """The cluster's lease ends, whoever has it; its holder will find out."""
    cluster = state.clusters[index]
    if cluster.lease is None:
        return state
    state = with_cluster(state, index, cluster._replace(lease=None))
    for number, worker in enumerate(state.workers):
        if worker.holds and worker.cluster == index:
            state = with_worker(state, number, worker._replace(holds=False))
    return state


def without_prompt(state: State, index: int) -> State:
    """The cluster serves nothing any more. Moves no epoch: callers do."""
    bit = 1 << index
    rows = tuple(row._replace(later=row.later & ~bit) if row.later & bit else row for row in state.erasures)
    return with_cluster(state, index, state.clusters[index]._replace(serving=0))._replace(erasures=rows)


def epoch_moved(state: State) -> State:
    """What is served may have changed: a batch under way is stale."""
    return state._replace(batch=state.batch._replace(stale=True)) if state.batch is not None else state


def notified(scope: Scope, state: State) -> State:
    """One message more, as far as they are counted."""
    return state._replace(messages=state.messages + 1) if state.messages < scope.messages else state

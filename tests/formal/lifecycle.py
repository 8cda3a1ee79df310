"""What may happen next: the life of two clusters, two workers, four samples and their erasures, step by step.

The model promises to allow whatever the service's code allows within a scope, in any order: messages come late, twice
or never, workers stall, fail and die at every step, leases run out under those who hold them. `explore` goes through
all of it and checks the promises of README. What it leaves out or makes coarser than the code:

- A key is the set of members a prompt is built from, in order of arrival; training is a step that takes any time.
- A transaction is one step: the code takes its row locks in one order, and SQLite has one writer anyway. Storing an
  artifact happens inside a transaction and is part of its step; a worker may die between the two.
- The partition does not move: no splits and merges, which replan in the same transaction. An empty cluster vanishes.
- No clock. A lease may run out, a pause after a failure may end and additions may settle at any time, so every order
  that some clock allows is tried. A dead worker's lease has run out: until then it is like a stalled worker's.
- One kind of message ("look"). The wake-up of the API's reconciler and a train task are the same to it.
- One replica, one batch with one prompt. The epoch is whether it has moved since the batch began.
- The artifact of a publication whose acknowledgement was lost is missing: it is discarded like a damaged one.
- A worker whose lease an erasure has ended is not waited for (`destructions.held_until`): it lets go, or time passes.
- The sweep for objects that no row knows does not run: where it is what would destroy them, that counts as broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.formal import transactions as tx
from tests.formal.books import (
    AT_REST,
    CLAIMED,
    CLUSTERS,
    FAILED,
    FREE,
    KEYS,
    LANDED,
    OWNER,
    STORING,
    TRAINED,
    UNLIMITED,
    Batch,
    Lease,
    Safeguard,
    Scope,
    State,
    canonical,
    notified,
    with_cluster,
    with_worker,
    without_lease,
)

LOOKS = ("plan", "destroy", "advance erasures")  # what every process does by itself, without a worker

# Whose doing a step is. Only the service's own steps are fair: it goes on taking them as long as they are possible.
PEOPLE, SERVICE, FAULT = "people", "service", "fault"
LATE = [f"{cluster}, without its lease" for cluster in CLUSTERS]


class Action(NamedTuple):
    """A named step; its subject is a cluster's name or a set of samples."""

    name: str
    kind: str
    subject: str = ""
    worker: int = -1  # in the state before: workers have no names, and may change places from state to state

    def __str__(self) -> str:
        return f"{self.name} {self.subject}".strip()


Steps = Iterator[tuple[Action, State]]


def successors(scope: Scope, state: State) -> Steps:
    """Everything that may happen next."""
    for action, after in _all(scope, state):
        if action.kind == FAULT and state.faults != UNLIMITED:
            if state.faults == 0:
                continue
            after = after._replace(faults=state.faults - 1)
        yield action, canonical(after)


def _all(scope: Scope, state: State) -> Steps:
    yield from _people(scope, state)
    yield from _reconciler(scope, state)
    yield from _messages(scope, state)
    yield from _worker(scope, state, 0)
    if state.workers[0] != state.workers[1]:
        yield from _worker(scope, state, 1)
    yield from _time(state)
    if scope.answers:
        yield from _replica(scope, state)


def _people(scope: Scope, state: State) -> Steps:
    new = scope.coming & ~state.known
    if new:
        yield Action("add", PEOPLE), tx.add(scope, state, new)
    if state.accepted < scope.erasures:
        survivors = state.survivors
        asked = {survivors & sample for sample in (1, 2, 4, 8, OWNER)} - {0}
        for samples in sorted(asked):
            yield Action("erase", PEOPLE, f"{samples:04b}"), tx.accept(scope, state, samples)


def _reconciler(scope: Scope, state: State) -> Steps:
    """From its timer, at any time; without one, only what a message brings (`_worker`)."""
    if scope.lacks(Safeguard.TIMER):
        return
    if any(map(tx.is_to_plan, state.clusters)):
        yield Action("plan", SERVICE), tx.replan(scope, state)
    destroyed = tx.destroy(state)
    if destroyed != state:
        yield Action("destroy", SERVICE), destroyed
        yield from _refusals(state, destroyed)
    advanced = tx.advance(scope, state)
    if advanced != state:
        yield Action("advance erasures", SERVICE), advanced
    if state.messages < scope.messages and any(map(tx.is_waiting, state.clusters)):
        yield Action("notify", SERVICE), notified(scope, state)


def _refusals(state: State, destroyed: State) -> Steps:
    """The store refuses to destroy some objects just now; the others do not wait for them."""

    def left(refused: int) -> State:
        """An erasure that waits for an object that the store refused to delete goes on waiting."""
        pairs = zip(destroyed.erasures, state.erasures, strict=True)
        return destroyed._replace(
            erasures=tuple(d._replace(deletions=d.deletions | e.deletions & refused) for d, e in pairs)
        )

    if state.deletions:
        refused = left(state.deletions)._replace(deletions=state.deletions)
        yield Action("destroy all but what no erasure asked for", FAULT), refused
    for place, erasure in enumerate(state.erasures):
        if erasure.deletions and erasure.planned:
            refused = left(erasure.deletions)
            failed = erasure._replace(state=FAILED)
            rows = (*refused.erasures[:place], failed, *refused.erasures[place + 1 :])
            yield Action("destroy all but an erasure's", FAULT), refused._replace(erasures=rows)


def _messages(scope: Scope, state: State) -> Steps:
    if state.messages:
        yield Action("lose a message", FAULT), state._replace(messages=state.messages - 1)
        if state.messages < scope.messages:
            yield Action("deliver a message twice", FAULT), notified(scope, state)


def _worker(scope: Scope, state: State, number: int) -> Steps:
    worker = state.workers[number]
    if worker.step == AT_REST:
        if state.messages:
            yield from _answer_message(scope, state._replace(messages=state.messages - 1), number)
        return
    if worker.step == CLAIMED:
        yield _list_members(scope, state, number)
    elif worker.step == TRAINED:
        yield from _publish(scope, state, number)
    elif worker.step == STORING:
        landed = with_worker(state, number, worker._replace(step=LANDED))
        yield _by(state, number, "see the object land late", SERVICE), landed
    elif worker.step == LANDED:
        yield _by(state, number, "destroy it and fail", SERVICE), tx.give_back(scope, state, number, failed=True)
        return
    row = state.clusters[worker.cluster]
    if worker.holds and row.lease is not None and row.lease.expired and KEYS[row.desired] == KEYS[worker.members]:
        renewed = row._replace(lease=row.lease._replace(expired=False))
        yield _by(state, number, "renew", SERVICE), with_cluster(state, worker.cluster, renewed)
    yield _by(state, number, "fail", FAULT), tx.give_back(scope, state, number, failed=True)
    yield _by(state, number, "be interrupted", FAULT), tx.give_back(scope, state, number)
    yield _by(state, number, "die", FAULT), _dead(state, number, stored=0)


def _by(state: State, number: int, name: str, kind: str) -> Action:
    worker = state.workers[number]
    return Action(name, kind, CLUSTERS[worker.cluster] if worker.holds else LATE[worker.cluster], number)


def _answer_message(scope: Scope, state: State, number: int) -> Steps:
    if scope.lacks(Safeguard.TIMER):  # then a message is what reconciles, and before the worker claims
        state = tx.advance(scope, tx.destroy(tx.replan(scope, state)))
        yield Action("look", SERVICE), state
    for index, row in enumerate(state.clusters):
        if tx.is_waiting(row):
            yield Action("claim", SERVICE, CLUSTERS[index], number), tx.claim(scope, state, number, index)


def _list_members(scope: Scope, state: State, number: int) -> tuple[Action, State]:
    """training._build: those that had come when the key was planned. If they differ by now, the plan has changed."""
    worker = state.workers[number]
    until_planned = (1 << worker.members.bit_length()) - 1
    members = state.clusters[worker.cluster].members & until_planned
    if KEYS[members] != KEYS[worker.members]:
        return _by(state, number, "give up", SERVICE), tx.give_back(scope, state, number)
    trained = worker._replace(step=TRAINED, members=members)
    return _by(state, number, "list members and train", SERVICE), with_worker(state, number, trained)


def _publish(scope: Scope, state: State, number: int) -> Steps:
    worker = state.workers[number]
    if not tx.may_publish(scope, state, worker):
        yield _by(state, number, "give up", SERVICE), tx.give_back(scope, state, number)
        return
    yield _by(state, number, "publish", SERVICE), tx.publish(scope, state, number)
    if worker.holds:
        yield _by(state, number, "die after storing", FAULT), _dead(state, number, stored=worker.members)
    if scope.lacks(Safeguard.CONNECTION):
        storing = with_worker(state, number, worker._replace(step=STORING))
        yield _by(state, number, "lose the connection while storing", FAULT), storing


def _dead(state: State, number: int, *, stored: int) -> State:
    """Its leases are no worker's any more, and what it had stored stays."""
    worker = state.workers[number]
    if worker.holds:
        left = Lease(alive=False, expired=True, stored=stored)
        state = with_cluster(state, worker.cluster, state.clusters[worker.cluster]._replace(lease=left))
    return with_worker(state, number, FREE)


def _time(state: State) -> Steps:
    """Leases run out; dead workers' names start again and give their leases back; artifacts decay."""
    for index, row in enumerate(state.clusters):
        name = CLUSTERS[index]
        if row.lease is not None and not row.lease.expired:
            expired = row._replace(lease=row.lease._replace(expired=True))
            yield Action("let the lease expire of", FAULT, name), with_cluster(state, index, expired)
        if row.lease is not None and not row.lease.alive:
            released = without_lease(state, index)._replace(deletions=state.deletions | row.lease.stored)
            yield Action("start the dead worker again of", SERVICE, name), released
        if row.serving:
            yield Action("discard the damaged artifact of", FAULT, name), tx.discard(state, index)


def _replica(scope: Scope, state: State) -> Steps:
    """engine.predict: checks the epoch, computes, checks it again; what is withdrawn is computed again."""
    batch = state.batch
    if batch is None:
        for served in sorted({row.serving for row in state.clusters} - {0}):
            yield Action("ask", PEOPLE, f"{served:04b}"), state._replace(batch=Batch(served, stale=False))
        return
    served_now = {KEYS[row.serving] for row in state.clusters}
    if batch.stale and KEYS[batch.members] not in served_now and not scope.lacks(Safeguard.RECHECK):
        yield Action("compute again", SERVICE), state._replace(batch=None)
    else:
        yield Action("answer", SERVICE, f"{batch.members:04b}"), state._replace(batch=None)

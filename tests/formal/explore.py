"""Every state that can be reached, breadth first, and what must hold in all of them.

A violation comes with the shortest history that leads to it. Liveness is checked on the whole graph: from wherever
people and faults have led, the service's own steps alone must be able to bring everything to its end. On a finite
graph that is what "sooner or later" comes to, for a service that neglects no step for ever.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.formal.books import COMPLETED, KEYS, LANDED, OWN, Safeguard, Scope, State, initial
from tests.formal.lifecycle import LOOKS, SERVICE, Action, successors


class Promise(StrEnum):
    """What the model is checked for."""

    FORGOTTEN = "I1: no prompt is served or desired that has an erased member"
    ONE_PUBLISHER = "I2: what is published is what is desired then, by the one who holds the lease"
    OWED_OR_DONE = "I3: an erasure is on record until nothing of it is left, and then completed"
    CLEAN_ANSWERS = "I4: no answer is returned that comes from a withdrawn prompt"
    ENDS = "L1: whatever has happened, all erasures can still be completed and restored, and all survivors served"
    NO_TRAINING = "L2: whatever has happened, all erasures can still be completed without any training"


@dataclass(frozen=True)
class Counterexample:
    """Promises broken, and the shortest history that does it."""

    broken: tuple[Promise, ...]
    history: tuple[str, ...]
    state: State

    def __str__(self) -> str:
        return "\n  ".join([*self.broken, *self.history, repr(self.state)])


@dataclass(frozen=True)
class Report:
    """What an exploration has seen; `seen` are names of actions, and states of erasures."""

    states: int
    transitions: int
    seconds: float
    seen: frozenset[str]
    counterexample: Counterexample | None


def explore(scope: Scope) -> Report:
    """Go through all states of a scope, until a promise is broken."""
    started = time.perf_counter()
    graph = _Graph()
    graph.number(initial(scope), None)
    seen: set[str] = set()
    transitions = 0
    found: Counterexample | None = None
    for place, before in enumerate(graph.states):  # grows meanwhile
        for action, after in successors(scope, before):
            transitions += 1
            seen.add(action.name)
            target, is_new = graph.number(after, (place, action))
            if action.kind == SERVICE:
                graph.fair_from[target].append(place)
            if action.name in LOOKS:
                graph.look_from[target].append(place)
            broken = (*(_broken_in(after) if is_new else ()), *_broken_by(action, before))
            if broken:
                found = Counterexample(broken, (*graph.history(place), str(action)), after)
                break
        if found is not None:
            break
    if found is None and (stuck := graph.first_stuck(_is_end, graph.fair_from)) is not None:
        found = Counterexample((Promise.ENDS,), graph.history(stuck), graph.states[stuck])
    by_itself = found is None and not scope.lacks(Safeguard.TIMER)
    if by_itself and (stuck := graph.first_stuck(_is_forgotten, graph.look_from)) is not None:
        found = Counterexample((Promise.NO_TRAINING,), graph.history(stuck), graph.states[stuck])
    seen |= {erasure.state for state in graph.states for erasure in state.erasures}
    return Report(len(graph.states), transitions, time.perf_counter() - started, frozenset(seen), found)


class _Graph:
    """States in the order they were found, how each was, and which steps of the service, or looks, lead to it."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.fair_from: list[array[int]] = []
        self.look_from: list[array[int]] = []
        self._origin: list[tuple[int, Action] | None] = []
        self._places: dict[State, int] = {}

    def number(self, state: State, origin: tuple[int, Action] | None) -> tuple[int, bool]:
        """The place of a state, and whether it is new."""
        place = self._places.setdefault(state, len(self.states))
        if place < len(self.states):
            return place, False
        self.states.append(state)
        self.fair_from.append(array("I"))
        self.look_from.append(array("I"))
        self._origin.append(origin)
        return place, True

    def history(self, place: int) -> tuple[str, ...]:
        """The actions that led to a state: as few as possible, for the search is breadth first."""
        actions = []
        while (step := self._origin[place]) is not None:
            place, action = step
            actions.append(str(action))
        return tuple(reversed(actions))

    def first_stuck(self, is_end: Callable[[State], bool], before_by: Sequence[array[int]]) -> int | None:
        """The earliest state from which no end can be come to by these steps alone."""
        can_end = bytearray(map(is_end, self.states))
        todo = [place for place, ends in enumerate(can_end) if ends]
        while todo:
            for before in before_by[todo.pop()]:
                if not can_end[before]:
                    can_end[before] = True
                    todo.append(before)
        stuck = can_end.find(False)
        return stuck if stuck >= 0 else None


def _is_end(state: State) -> bool:
    """Nothing is left to forget, and what is served is what the survivors alone imply."""
    return not state.erasures and all(KEYS[row.serving] == KEYS[row.members] for row in state.clusters)


def _is_forgotten(state: State) -> bool:
    """Nothing is left to forget, whatever is served."""
    return all(erasure.state == COMPLETED for erasure in state.erasures)


def _broken_in(state: State) -> Iterator[Promise]:
    erased = state.erased
    if any((row.serving | row.desired) & erased for row in state.clusters):
        yield Promise.FORGOTTEN
    for index, row in enumerate(state.clusters):
        holders = sum(worker.holds and worker.cluster == index for worker in state.workers)
        if holders != (row.lease is not None and row.lease.alive):
            yield Promise.ONE_PUBLISHER
    on_record = 0
    for erasure in state.erasures:
        on_record |= erasure.samples if erasure.state != COMPLETED else 0
    if on_record | state.completed != erased or state.completed & (on_record | _left(state)):
        yield Promise.OWED_OR_DONE


def _left(state: State) -> int:
    """Samples that some object in the store shows or has seen. A survivor's own object is none of these."""
    left = state.deletions | state.lost
    for erasure in state.erasures:
        left |= erasure.deletions
    for row in state.clusters:
        left |= row.serving | (row.lease.stored if row.lease is not None else 0)
    for worker in state.workers:
        left |= worker.members if worker.step == LANDED else 0
    return left | left >> OWN


def _broken_by(action: Action, before: State) -> Iterator[Promise]:
    if action.name == "publish":
        worker = before.workers[action.worker]
        if not worker.holds or KEYS[worker.members] != KEYS[before.clusters[worker.cluster].desired]:
            yield Promise.ONE_PUBLISHER
    if action.name == "answer" and before.batch is not None and before.batch.members & before.erased:
        # Same key, same bytes: an answer is clean as well if survivors alone have built the very same prompt since.
        clean = {KEYS[row.serving] for row in before.clusters if not row.serving & before.erased}
        if KEYS[before.batch.members] not in clean:
            yield Promise.CLEAN_ANSWERS

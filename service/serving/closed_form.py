"""The closed-form tier of one replica: brought up to date by the registry's feed, exact at every mark.

Two heads come from one sum. A head for the meantime, of the entries that `quick` descriptors have, is solved in
milliseconds by whoever finds that a sample was removed; the whole head, which takes a third of a second, is solved
by the updater's thread, off the threads that answer. While it is, additions wait for it, and answers know the older
whole head unless a sample was removed. A tier consists of recorded descriptors of one kind: while samples wait to be
described anew (`core.redescribe`), it knows the others.

A replica is recorded from before it reads the survivors until it leaves; during that time the objects of samples that
are removed are kept for it to subtract. If anything goes wrong (a change is missing from the feed, an object cannot be
read, there are too many samples), the tier drops its state, needs no objects any more, and starts again from the
survivors. It answers exactly, or not at all.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from models.closed_form import Accumulators, ClosedFormHead, TooManySamples, accumulate, solve, summarise
from models.descriptor import Descriptor
from service.artifacts import ObjectMissing
from service.core import sample_file
from service.core.context import Context
from service.registry import descriptions, feed, replicas, samples
from service.registry.feed import Added, Changes
from service.registry.records import Marks, Replica

log = logging.getLogger(__name__)

CHUNK = 256  # samples read at a time
PATIENCE = timedelta(minutes=1)  # between two attempts to start from the survivors, unless a sample was removed


class Lost(Exception):
    """The tier's state cannot be brought up to date."""


@dataclass(frozen=True)
class Solved:
    """The solved tier at these marks; without a head while there are no samples.

    whole  whether the head knows all entries of a descriptor.
    """

    marks: Marks
    samples: int
    head: ClosedFormHead | None
    whole: bool


def replica_name() -> str:
    """The name of this process as a replica."""
    return f"{socket.gethostname()}-{os.getpid()}"


class ClosedFormTier:
    """Accumulators, the head that they imply, and the samples that are in them. Safe to use from several threads.

    before_report  called before a report: then this replica must hold nothing else of removed samples either. Of how
                   many removed evaluation samples it holds nothing; None if it computes nothing from any.
    unsolved       called when the whole head waits to be solved: by `catch_up`, on a thread that answers nobody.
    """

    def __init__(self, context: Context, *, name: str) -> None:
        self.before_report: Callable[[], int | None] = lambda: None
        self.unsolved: Callable[[], object] = lambda: None
        self._context = context
        self._name = name
        self._lock = threading.Lock()
        self._solving = threading.Lock()
        self._starting = threading.Lock()
        self._state: Accumulators | None = None
        self._marks = Marks(0, 0)  # of `_state`; `_solved` may lack additions that are in it, never a removal
        self._labels: dict[str, str] = {}  # of the samples that are in, by the name of their object
        self._solved: Solved | None = None
        self._reported: tuple[Marks, str] | None = None  # the last reported marks and digest
        self._let_go: int | None = None  # of so many evaluation samples, as last reported
        self._failed: tuple[float, int] | None = None  # when starting failed (monotonic seconds), at how many removals

    def current(self, now: Marks | None = None) -> Solved | None:
        """The tier without any removed sample; None while it is lost. Added samples may not be in it yet.

        now  the marks, if they have just been read.
        """
        if now is None:
            with self._context.registry.read_one() as session:
                now = feed.marks(session)
        solved = self._solved
        if solved is not None and solved.marks.removals == now.removals and (solved.head or now == solved.marks):
            return solved
        return self._advance()

    def catch_up(self) -> Solved | None:
        """The tier with all added and without all removed samples, its head whole; None while it is lost."""
        self._advance()
        self._solve_whole()
        return self._solved

    def _advance(self) -> Solved | None:
        """Bring the sums up to date; where a sample was removed, with a head for the meantime. None while lost."""
        with self._lock:
            if self._state is None or self._solved is None:
                return None
            with self._context.registry.read() as session:
                changes = feed.since(session, self._marks, kind=self._context.backbone.kind.name)
            if changes.now == self._marks:
                return self._solved
            try:
                self._apply(self._state, changes)
            except Exception as failure:  # whatever it is: half a change is no state
                self._lose(failure)
                return None
            self.unsolved()
            return self._solved

    def _solve_whole(self) -> None:
        """Solve the whole head of the present sums, from a copy: threads that answer do not wait meanwhile."""
        with self._solving:
            with self._lock:
                solved, marks = self._solved, self._marks
                if self._state is None or solved is None or (solved.whole and solved.marks == marks):
                    return
                copy = self._state.copy()
            head = solve(copy, ridge=self._context.closed_form.ridge) if copy.samples else None
            with self._lock:
                now = self._solved
                if now is not None and now.marks.removals == marks.removals:
                    self._solved = Solved(marks, copy.samples, head, whole=True)

    def start(self) -> Solved | None:
        """Start from the survivors, unless the tier has started; None if that is not possible now."""
        with self._starting:
            if self._state is not None:
                return self.catch_up()
            with self._context.registry.write_beside_plans() as session:
                replicas.register(session, name=self._name, now=self._context.clock())
            with self._context.registry.read() as session:
                survivors = feed.everything(session, kind=self._context.backbone.kind.name)
            try:
                backbone = self._context.backbone
                beating = self._beating(survivors.added)
                state = accumulate(backbone.descriptor_width, beating, kind=backbone.kind.name)
                with self._lock:
                    self._labels = {samples.object_name(one.id): one.label for one in survivors.added}
                    head = solve(state, ridge=self._context.closed_form.ridge) if state.samples else None
                    self._state, self._marks = state, survivors.now
                    self._solved = Solved(survivors.now, state.samples, head, whole=True)
                self._failed = None
            except Exception as failure:
                self._failed = (time.monotonic(), survivors.now.removals)
                self._lose(failure)
            return self._solved

    def keep(self) -> bool:
        """Bring the tier up to date, or start it again, and report; whether more objects may be deleted now."""
        if self.catch_up() is None and self._may_start():
            self.start()
        before, held = self._reported, self._let_go
        self.report()
        after = self._reported
        if after is None:
            return False
        return before is None or after[0].removals > before[0].removals or (self._let_go or 0) > (held or 0)

    def report(self) -> None:
        """Record that this replica is alive, and which changes it has applied."""
        with self._lock:
            if self._state is None or self._solved is None:
                return
            marks = self._marks
            state = self._state.copy() if self._reported is None or self._reported[0] != marks else None
        if state is not None:
            self._reported = (marks, state.digest())
        known = self._reported
        if known is not None:
            self._let_go = self.before_report()
            with self._context.registry.write_beside_plans() as session:
                replicas.report(session, Replica(self._name, self._context.clock(), *known, self._let_go))

    def leave(self) -> None:
        """Stop: removed samples' objects are no longer kept for this replica."""
        self._lose(None)

    def summary(self) -> tuple[str, int] | None:
        """(digest, number of samples) of the tier, brought up to date; None while it is lost."""
        known = self._reported
        if self._advance() is None:
            return None
        with self._lock:
            if self._state is None:
                return None
            if known is not None and known[0] == self._marks:
                return known[1], self._state.samples
            state = self._state.copy()
        return state.digest(), state.samples

    def accumulated(self) -> tuple[Marks, Accumulators] | None:
        """The marks and a copy of the sums, brought up to date; None while it is lost."""
        if self._advance() is None:
            return None
        with self._lock:
            return (self._marks, self._state.copy()) if self._state is not None else None

    def descriptors(self, of: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        """Descriptors [n, dim] of these samples with their labels, read from the store. Raises Lost."""
        return self._read(of)

    def _apply(self, state: Accumulators, changes: Changes) -> None:
        if not changes.complete(self._labels):
            raise Lost("changes are missing from the feed: this replica counted as dead meanwhile")
        if any(samples.object_name(one.id) in self._labels for one in changes.added):
            raise Lost("a sample was described anew that this replica had added")
        gone = [name for name in changes.removed if name in self._labels]
        for start in range(0, len(gone), CHUNK):
            chunk = gone[start : start + CHUNK]
            state.remove(np.stack([self._removed(name) for name in chunk]), [self._labels.pop(n) for n in chunk])
        for descriptors, labels in self._read(changes.added):
            state.add(descriptors, labels)
        self._labels.update((samples.object_name(one.id), one.label) for one in changes.added)
        self._marks = changes.now
        if changes.removed or self._solved is None or self._solved.head is None:
            self._solved = self._for_the_meantime(state, changes.now)

    def _for_the_meantime(self, state: Accumulators, marks: Marks) -> Solved:
        """What answers until the whole head is solved: a head of a few entries, where a descriptor has many."""
        entries = self._context.backbone.depths.summary
        if not state.samples or entries is None:
            head = solve(state, ridge=self._context.closed_form.ridge) if state.samples else None
            return Solved(marks, state.samples, head, whole=True)
        return Solved(marks, state.samples, summarise(state, entries), whole=False)

    def _lose(self, failure: Exception | None) -> None:
        """Drop the state and the replica's row. If the row cannot be deleted, it expires."""
        if isinstance(failure, Lost | TooManySamples):
            log.error("the closed-form tier is lost and starts again from the survivors: %s", failure)
        elif failure is not None:
            log.error("the closed-form tier is lost and starts again from the survivors", exc_info=failure)
        self._state, self._solved, self._reported, self._labels = None, None, None, {}
        with suppress(Exception), self._context.registry.write_beside_plans() as session:
            replicas.leave(session, name=self._name)

    def _may_start(self) -> bool:
        if self._failed is None:
            return True
        since, removals = self._failed
        with self._context.registry.read() as session:
            erased = feed.marks(session).removals != removals
        return erased or time.monotonic() - since > PATIENCE.total_seconds()

    def _beating(self, added: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        """`_read`, with a heartbeat now and then: it can take minutes."""
        last = time.monotonic()
        for part in self._read(added):
            if time.monotonic() - last > self._context.settings.worker.heartbeat_seconds:
                last = time.monotonic()
                with self._context.registry.write_beside_plans() as session:
                    replicas.beat(session, name=self._name, now=self._context.clock())
            yield part

    def _read(self, added: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        for start in range(0, len(added), CHUNK):
            chunk = added[start : start + CHUNK]
            yield np.stack([self._added(one) for one in chunk]), [one.label for one in chunk]

    def _added(self, sample: Added) -> Descriptor:
        """The descriptor of an added sample. Raises Lost; a sample with another kind of it is to be described anew."""
        found = self._recorded(samples.object_name(sample.id))
        if found is None:
            with self._context.registry.write_beside_plans() as session:
                descriptions.note(session, [sample.id], None)
            raise Lost(f"sample {sample.id} has no descriptor of the kind {self._context.backbone.kind.name}")
        return found

    def _removed(self, name: str) -> Descriptor:
        found = self._recorded(name)
        if found is None:
            raise Lost(f"{name} has no descriptor of the kind {self._context.backbone.kind.name}")
        return found

    def _recorded(self, name: str) -> Descriptor | None:
        """The descriptor in a sample's file; None if it is of another kind. Raises Lost."""
        try:
            return sample_file.descriptor(self._context.store.get(name), kind=self._context.backbone.kind.name)
        except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
            raise Lost(f"{name}: {sample_file.words(error)}") from None

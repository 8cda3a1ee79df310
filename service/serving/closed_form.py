"""The closed-form tier of one replica: brought up to date by the registry's feed, exact at every mark.

Two heads come from one sum. The quick head, of the entries that `quick` descriptors have, is solved in milliseconds by
the thread that finds that a sample was removed; the whole head, which takes a third of a second, is solved by the
updater's thread, off the threads that answer. Added samples are read and summed there too, all that have come together,
and are answered with once the whole head is solved: a thread that answers only ever subtracts. A tier consists of
recorded descriptors of one kind: while samples wait to be described anew (`core.redescribe`), it knows the others.

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
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from models.closed_form import Accumulators, ClosedFormHead, TooManySamples, accumulate, solve, summarise
from models.descriptor import Descriptor
from service.core.context import Context
from service.registry import feed, replicas
from service.registry.feed import Added
from service.registry.records import Marks, Replica
from service.serving.descriptor_files import DescriptorFiles, Lost
from service.serving.stopwatch import Stopwatch
from service.serving.survivor_sums import Additions, SurvivorSums

log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=1)  # between two attempts to start from the survivors, unless a sample was removed


@dataclass(frozen=True)
class Solved:
    """The solved tier at these marks; without a head while there are no samples.

    whole  whether the head knows all entries of a descriptor; if not, it is the quick head.
    """

    marks: Marks
    samples: int
    head: ClosedFormHead | None
    whole: bool

    @property
    def head_name(self) -> Literal["quick", "whole"] | None:
        """Which head answers; None without one."""
        if self.head is None:
            return None
        return "whole" if self.whole else "quick"


def replica_name() -> str:
    """The name of this process as a replica."""
    return f"{socket.gethostname()}-{os.getpid()}"


class ClosedFormTier:
    """Accumulators, the head that they imply, and the samples that are in them. Safe to use from several threads.

    before_report  called before a report: then this replica must hold nothing else of removed samples either.
    let_go         the same for evaluation samples: of how many removed ones this replica then holds nothing; None if it
                   computes nothing from any.
    unsolved       called when the whole head waits to be solved: by `catch_up`, on a thread that answers nobody.
    """

    def __init__(self, context: Context, *, name: str) -> None:
        self.before_report: Callable[[], object] = lambda: None
        self.let_go: Callable[[], int | None] = lambda: None
        self.unsolved: Callable[[], object] = lambda: None
        self._context = context
        self._name = name
        self._files = DescriptorFiles(context)
        self._lock = threading.Lock()  # of the sums and the head; threads that answer take no other
        self._folding = threading.Lock()  # held while added samples are in memory
        self._solving = threading.Lock()
        self._starting = threading.Lock()
        self._sums: SurvivorSums | None = None  # while they are None, so is `_solved`
        self._solved: Solved | None = None  # may lack additions that are in the sums, never a removal
        self._quick = Stopwatch()
        self._reported: tuple[Marks, str] | None = None  # the last reported marks and digest
        self._let_go_of: int | None = None  # so many evaluation samples, as last reported
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
        is_empty = solved is not None and solved.head is None  # then the first samples answer at once
        is_current = self._is_folded() if is_empty else self._subtract() is not None
        return self._solved if is_current else None  # not a state that it starts with just now

    def catch_up(self) -> Solved | None:
        """The tier with all added and without all removed samples, its head whole; None while it is lost."""
        self._fold()
        self._solve_whole()
        return self._solved

    @property
    def quick_seconds(self) -> float:
        """How long the quick head has been the one that answers, in all."""
        return self._quick.seconds

    @property
    def is_whole(self) -> bool:
        """Whether it answers with a whole head; False while it is lost."""
        solved = self._solved
        return solved is not None and solved.whole

    def is_behind(self) -> bool:
        """Whether a removed sample is still in the sums."""
        with self._context.registry.read_one() as session:
            now = feed.marks(session)
        sums = self._sums
        return sums is not None and sums.marks.removals != now.removals

    def _subtract(self) -> tuple[SurvivorSums, Additions] | None:
        """Take removed samples out, and answer without them from now on; what is to be added. None while lost."""
        with self._lock:
            sums = self._sums
            if sums is None or self._solved is None:
                return None
            with self._context.registry.read() as session:
                changes = feed.since(session, sums.marks, kind=self._context.backbone.kind.name)
            try:
                if sums.remove(changes):
                    self._answer_with(self._for_the_meantime(sums))
                    self.unsolved()
                elif changes.removed:  # passed over: the head knows none of them
                    marks = Marks(self._solved.marks.additions, sums.marks.removals)
                    self._solved = replace(self._solved, marks=marks)
            except Exception as failure:  # whatever it is: half a change is no state
                self._lose(failure)
                return None
            return sums, sums.additions(changes)

    def _fold(self) -> bool:
        """Bring the sums up to date, also with added samples, which are read while others answer; whether they are."""
        with self._folding:
            found = self._subtract()
            if found is None:
                return False
            sums, additions = found
            if additions.mark == sums.marks.additions:
                return True
            try:
                add = sums.sum_up(additions.added)
                with self._lock:
                    if self._sums is not sums:
                        return False  # lost meanwhile
                    add()
                    sums.note_added(additions)
                    if self._solved is None or self._solved.head is None:
                        self._answer_with(self._for_the_meantime(sums))
            except Exception as failure:  # as above
                self._lose(failure)
                return False
            return True

    def _is_folded(self) -> bool:
        """Fold, and have the whole head solved soon; whether the sums are up to date."""
        folded = self._fold()
        if folded:
            self.unsolved()
        return folded

    def _solve_whole(self) -> None:
        """Solve the whole head of the present sums, from a copy: threads that answer do not wait meanwhile."""
        with self._solving:
            with self._lock:
                solved, sums = self._solved, self._sums
                if sums is None or solved is None or (solved.whole and solved.marks == sums.marks):
                    return
                marks, copy = sums.marks, sums.state.copy()
            count = copy.samples
            head = solve(copy, ridge=self._context.closed_form.ridge, overwrite=True) if count else None
            with self._lock:
                now = self._solved
                if now is not None and now.marks.removals == marks.removals:
                    self._answer_with(Solved(marks, count, head, whole=True))

    def start(self) -> Solved | None:
        """Start from the survivors, unless the tier has started; None if that is not possible now."""
        with self._starting:
            if self._sums is not None:
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
                    head = solve(state, ridge=self._context.closed_form.ridge) if state.samples else None
                    self._sums = SurvivorSums(state, survivors, self._files)
                    self._answer_with(Solved(survivors.now, state.samples, head, whole=True))
                self._failed = None
            except Exception as failure:
                self._failed = (time.monotonic(), survivors.now.removals)
                self._lose(failure)
            return self._solved

    def keep(self) -> bool:
        """Bring the tier up to date, or start it again, and report; whether more objects may be deleted now."""
        if self.catch_up() is None and self._may_start():
            self.start()
        before, held = self._reported, self._let_go_of
        self.report()
        after = self._reported
        if after is None:
            return False
        return before is None or after[0].removals > before[0].removals or (self._let_go_of or 0) > (held or 0)

    def report(self) -> None:
        """Record that this replica is alive, and which changes it has applied."""
        with self._solving, self._folding, self._lock:  # no other thread has samples in memory that these marks remove
            if self._sums is None or self._solved is None:
                return
            marks = self._sums.marks
            state = self._sums.state.copy() if self._reported is None or self._reported[0] != marks else None
        if state is not None:
            self._reported = (marks, state.digest())
        known = self._reported
        if known is not None:
            self.before_report()
            self._let_go_of = self.let_go()
            with self._context.registry.write_beside_plans() as session:
                replicas.report(session, Replica(self._name, self._context.clock(), *known, self._let_go_of))

    def leave(self) -> None:
        """Stop: removed samples' objects are no longer kept for this replica."""
        self._lose(None)

    def summary(self) -> tuple[str, int] | None:
        """(digest, number of samples) of the tier, brought up to date; None while it is lost."""
        known = self._reported
        if not self._is_folded():
            return None
        with self._lock:
            if self._sums is None:
                return None
            if known is not None and known[0] == self._sums.marks:
                return known[1], self._sums.state.samples
            state = self._sums.state.copy()
        return state.digest(), state.samples

    def accumulated(self) -> tuple[Marks, Accumulators] | None:
        """The marks and a copy of the sums, brought up to date; None while it is lost."""
        if not self._is_folded():
            return None
        with self._lock:
            return (self._sums.marks, self._sums.state.copy()) if self._sums is not None else None

    def descriptors(self, of: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        """Descriptors [n, dim] of these samples with their labels, read from the store. Raises Lost."""
        return self._files.read(of)

    def _answer_with(self, solved: Solved | None) -> None:
        self._solved = solved
        self._quick.run(solved is not None and solved.head_name == "quick")

    def _for_the_meantime(self, sums: SurvivorSums) -> Solved:
        """What answers until the whole head is solved: the quick head, where a descriptor has more entries."""
        entries, state = self._context.backbone.depths.summary, sums.state
        if not state.samples or entries is None:
            head = solve(state, ridge=self._context.closed_form.ridge) if state.samples else None
            return Solved(sums.marks, state.samples, head, whole=True)
        return Solved(sums.marks, state.samples, summarise(state, entries), whole=False)

    def _lose(self, failure: Exception | None) -> None:
        """Drop the state and the replica's row. If the row cannot be deleted, it expires."""
        if isinstance(failure, Lost | TooManySamples):
            log.error("the closed-form tier is lost and starts again from the survivors: %s", failure)
        elif failure is not None:
            log.error("the closed-form tier is lost and starts again from the survivors", exc_info=failure)
        self._answer_with(None)
        self._sums, self._reported = None, None
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
        """Their descriptors and labels, with a heartbeat now and then: it can take minutes."""
        last = time.monotonic()
        for part in self._files.read_ahead(added):
            if time.monotonic() - last > self._context.settings.worker.heartbeat_seconds:
                last = time.monotonic()
                with self._context.registry.write_beside_plans() as session:
                    replicas.beat(session, name=self._name, now=self._context.clock())
            yield part

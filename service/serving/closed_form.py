"""The closed-form tier of one replica: brought up to date by the registry's feed, exact at every mark.

Two heads come from one sum. The quick head, of the entries that `quick` descriptors have, is solved in milliseconds by
the thread that finds that a sample was removed; the whole head, which takes a third of a second, is solved by the
updater's thread, off the threads that answer. Added samples are read and summed there too, all that have come together,
and are answered with once the whole head is solved: a thread that answers only ever subtracts. A tier consists of
recorded descriptors of one kind: while samples wait to be described anew (`core.redescribe`), it knows the others.

Lambda and temperature are chosen from the survivors in the background (`serving.quality`, `models.choice`). A choice
that knows a removed sample dies with it: the quick and the whole head answer with the constants until another choice is
adopted. Additions leave it in use until it is made anew.

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

from models.choice import Choice, constants, digest_of, is_choosable
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

    whole   whether the head knows all entries of a descriptor; if not, it is the quick head.
    choice  the temperature that it answers with, and the lambda of a whole head; of no removed sample.
    """

    marks: Marks
    samples: int
    head: ClosedFormHead | None
    whole: bool
    choice: Choice

    @property
    def head_name(self) -> Literal["quick", "whole"] | None:
        """Which head answers; None without one."""
        if self.head is None:
            return None
        return "whole" if self.whole else "quick"


@dataclass(frozen=True)
class Summary:
    """The tier with all added and without all removed samples.

    digest   of the sums and the choice.
    choice   lambda and temperature in force.
    settled  whether that is what these samples imply, and the head answers with it: nothing is to be chosen anew.
    """

    digest: str
    samples: int
    choice: Choice
    settled: bool


def replica_name() -> str:
    """The name of this process as a replica."""
    return f"{socket.gethostname()}-{os.getpid()}"


class ClosedFormTier:
    """Accumulators, the head that they imply, and the samples that are in them. Safe to use from several threads.

    before_report  called before a report: then this replica must hold nothing else of removed samples either.
    let_go         the same for evaluation samples: of how many removed ones this replica then holds nothing; None if it
                   computes nothing from any.
    unsolved       called when the whole head waits to be solved: by `catch_up`, on a thread that answers no client.
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
        self._chosen: tuple[Marks, Choice] | None = None  # the choice, and the marks of the sums that it was made from
        self._digest: tuple[Marks, str] | None = None  # of the last sums that were hashed
        self._reported: Marks | None = None
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
                    self._chosen = None  # it knows them
                    self._answer_with(self._for_the_meantime(sums))
                    self.unsolved()
                elif changes.removed:  # passed over: the head knows none of them
                    marks = Marks(self._solved.marks.additions, sums.marks.removals)
                    self._solved = replace(self._solved, marks=marks)
                    self._chosen = _without_passed(self._chosen, sums.marks)
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
                solved, sums, choice = self._solved, self._sums, self._choice()
                if sums is None or solved is None:
                    return
                if solved.whole and solved.marks == sums.marks and solved.choice == choice:
                    return
                marks, copy = sums.marks, sums.state.copy()
            count = copy.samples
            head = solve(copy, ridge=choice.ridge, overwrite=True) if count else None
            with self._lock:
                now = self._solved
                if now is not None and now.marks.removals == marks.removals:
                    self._answer_with(Solved(marks, count, head, whole=True, choice=choice))

    def adopt(self, choice: Choice, marks: Marks) -> None:
        """Answer with a choice that was made from the sums at these marks, unless a sample has been removed since."""
        with self._lock:
            if self._sums is None or marks.removals != self._sums.marks.removals:
                return
            self._chosen = (marks, choice)
        self.unsolved()

    def is_settled(self, now: Marks) -> bool:
        """Whether nothing is to be chosen anew at the registry's present marks; True while the tier is lost."""
        with self._lock:
            return self._sums is None or (self._sums.marks == now and self._is_chosen(self._sums))

    def _choice(self) -> Choice:
        """Lambda and temperature in force: of the present sums, or of sums that only lack added samples."""
        return self._chosen[1] if self._chosen is not None else constants(self._context.closed_form)

    def _is_chosen(self, sums: SurvivorSums) -> bool:
        """Whether the choice in force is what the present sums imply."""
        if self._chosen is not None and self._chosen[0] == sums.marks:
            return True
        return not is_choosable(sums.state.counts, self._context.closed_form)

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
                    choice = constants(self._context.closed_form)
                    head = solve(state, ridge=choice.ridge) if state.samples else None
                    self._sums, self._chosen = SurvivorSums(state, survivors, self._files), None
                    self._answer_with(Solved(survivors.now, state.samples, head, whole=True, choice=choice))
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
        return before is None or after.removals > before.removals or (self._let_go_of or 0) > (held or 0)

    def report(self) -> None:
        """Record that this replica is alive, and which changes it has applied; with its digest once it is settled."""
        found = self._summarise()
        if found is None:
            return
        marks, summary = found
        with self._solving, self._folding:  # then no other thread has samples in memory that these marks remove
            pass
        self.before_report()
        self._let_go_of = self.let_go()
        digest = summary.digest if summary.settled else None
        known = Replica(self._name, self._context.clock(), marks, digest, self._let_go_of)
        with self._context.registry.write_beside_plans() as session:
            replicas.report(session, known)
        self._reported = marks

    def leave(self) -> None:
        """Stop: removed samples' objects are no longer kept for this replica."""
        self._lose(None)

    def summary(self) -> Summary | None:
        """The tier, brought up to date; None while it is lost."""
        found = self._summarise() if self._is_folded() else None
        return found[1] if found is not None else None

    def _summarise(self) -> tuple[Marks, Summary] | None:
        """The tier as it is, and its marks; None while it is lost."""
        with self._lock:
            if self._sums is None or self._solved is None:
                return None
            marks, choice, samples, known = self._sums.marks, self._choice(), self._sums.state.samples, self._digest
            settled = self._is_chosen(self._sums) and self._solved.choice == choice
            sums = known[1] if known is not None and known[0] == marks else self._sums.state.copy()
        if isinstance(sums, Accumulators):  # hashed while others may answer
            sums = sums.digest()
            with self._lock:
                self._digest = (marks, sums)
        return marks, Summary(digest_of(sums, choice), samples, choice, settled)

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
        entries, state, choice = self._context.backbone.depths.summary, sums.state, self._choice()
        if not state.samples or entries is None:
            head = solve(state, ridge=choice.ridge) if state.samples else None
            return Solved(sums.marks, state.samples, head, whole=True, choice=choice)
        return Solved(sums.marks, state.samples, summarise(state, entries), whole=False, choice=choice)

    def _lose(self, failure: Exception | None) -> None:
        """Drop the state and the replica's row. If the row cannot be deleted, it expires."""
        if isinstance(failure, Lost | TooManySamples):
            log.error("the closed-form tier is lost and starts again from the survivors: %s", failure)
        elif failure is not None:
            log.error("the closed-form tier is lost and starts again from the survivors", exc_info=failure)
        self._answer_with(None)
        self._sums, self._chosen, self._digest, self._reported = None, None, None, None
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


def _without_passed(chosen: tuple[Marks, Choice] | None, now: Marks) -> tuple[Marks, Choice] | None:
    """The same choice once removed samples were passed over, which it does not know."""
    return (Marks(chosen[0].additions, now.removals), chosen[1]) if chosen is not None else None

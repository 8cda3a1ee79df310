"""The tier of adapted descriptors of one replica: a second closed form, beside that of frozen descriptors.

It follows the adapter in force: the sums are of the descriptors that this very publication of the adapter has computed,
of every survivor that it has described so far, and they answer only while it is in force and no sample has been removed
since. Otherwise frozen descriptors answer alone; so no thread that answers ever waits for this tier. Its own thread
reads, subtracts and solves (`keep`), and before the replica reports that it has applied removals, `let_go` sees to it
that nothing here knows a removed sample.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from models.closed_form import Accumulators, ClosedFormHead, solve
from models.descriptor import Descriptor
from service.artifacts import ObjectMissing
from service.core import adapting, sample_file
from service.core.context import Context
from service.registry import adapted, replicas, samples
from service.registry.feed import Added, Changes
from service.registry.records import Marks, Prompt

log = logging.getLogger(__name__)

CHUNK = 64  # descriptors read at a time, while a report of this replica may have to wait
PATIENCE = 5.0  # seconds before another attempt, after a failure of unknown cause


class AdaptedLost(Exception):
    """The sums cannot be brought up to date."""


@dataclass(frozen=True)
class Adapted:
    """What answers: a publication of the adapter, its values [2, width], and the head of the samples it has described.

    marks  none that was removed by then is in the head; some that were described by then may not be in it yet.
    """

    publication: str
    values: Tensor
    marks: Marks
    samples: int
    head: ClosedFormHead


@dataclass
class _Sums:
    """What is known of one publication.

    waiting  samples that are to be read and added, by the name of their object.
    labels   of samples that are in the sums, by the name of their object; None: it says nothing, and is in none.
    marks    removals are applied, additions are in `waiting` or in the sums.
    """

    publication: str
    values: Tensor
    state: Accumulators
    marks: Marks
    waiting: dict[str, Added]
    labels: dict[str, str | None] = field(default_factory=dict)


class AdaptedTier:
    """The second closed form. Safe to use from several threads; `keep` is for one."""

    def __init__(self, context: Context, *, name: str) -> None:
        self.unsolved: Callable[[], object] = lambda: None
        self._context = context
        self._name = name
        self._lock = threading.Lock()  # of the sums, for a chunk at a time
        self._sums: _Sums | None = None
        self._solved: Adapted | None = None
        self._reported: tuple[Marks, str] | None = None
        self._again = 0.0  # when to try again after a loss, monotonic seconds

    # -------------------------------------------------------------------------------------------------- answering

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked: then images are described so that it can be."""
        return self._solved is not None

    def current(self, publication: str | None, removals: int) -> Adapted | None:
        """The tier, if it is of the publication in force and without each of so many removed samples."""
        solved = self._solved
        if solved is not None and solved.publication == publication and solved.marks.removals == removals:
            return solved
        if solved is not None:
            self.unsolved()
        return None

    # ------------------------------------------------------------------------------------------------ its own thread

    def keep(self) -> bool:
        """Follow the adapter, bring the sums up to date, solve and report. False: no more objects may be deleted."""
        with self._context.registry.read() as session:
            adapter = adapted.in_force(session)
        publication = adapted.publication_of(adapter.object_name) if adapter is not None else None
        try:
            if self._sums is not None and self._sums.publication != publication:
                self.leave()
            if adapter is not None and self._sums is None and time.monotonic() >= self._again:
                self._start(adapter)
            while self._advance():
                pass
            self._solve()
        except Exception as failure:  # whatever it is: half a change is no state
            self._lose(failure)
        self._report()
        return False

    @property
    def is_whole(self) -> bool:
        """Whether it answers."""
        return self.is_ready

    def is_behind(self) -> bool:
        """Whether a removed sample is still in the sums."""
        sums = self._sums
        with self._context.registry.read_one() as session:
            return sums is not None and sums.marks.removals != adapted.marks(session).removals

    def let_go(self) -> None:
        """Nothing here knows a removed sample, or is of an adapter that was withdrawn, once this returns."""
        try:
            with self._context.registry.read() as session:
                publication = adapted.publication_in_force(session)
            if self._sums is not None and self._sums.publication != publication:
                self.leave()
            elif self.is_behind():
                self._subtract()
        except Exception as failure:
            self._lose(failure)

    def leave(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sums, self._solved, self._reported = None, None, None

    def accumulated(self) -> tuple[str, int, int] | None:
        """(digest, samples that are in the sums, samples that are yet to be read); None without sums."""
        with self._lock:
            sums = self._sums
            return (sums.state.digest(), sums.state.samples, len(sums.waiting)) if sums is not None else None

    def summary(self, publication: str | None) -> tuple[str, int] | None:
        """(digest, samples) as last reported; None without sums of this publication that are whole."""
        with self._lock:
            sums, reported = self._sums, self._reported
            if sums is None or reported is None or sums.publication != publication or reported[0] != sums.marks:
                return None
            return reported[1], sums.state.samples

    def _start(self, adapter: Prompt) -> None:
        values = adapting.load(self._context, adapter)
        if values is None:
            return
        publication = adapted.publication_of(adapter.object_name)
        with self._context.registry.read() as session:
            survivors = adapted.everything(session, publication=publication)
        state = Accumulators(adapting.width(self._context), kind=adapting.kind(adapter))
        waiting = {samples.object_name(one.id): one for one in survivors.added}
        with self._lock:
            self._sums = _Sums(publication, values, state, survivors.now, waiting)

    def _subtract(self) -> None:
        """Take removed samples out, and note described ones. Raises AdaptedLost."""
        with self._lock:
            if self._sums is not None:
                self._apply(self._sums, self._changes(self._sums))

    def _advance(self) -> bool:
        """Take removed samples out, and read a chunk of the others; whether some are left. Raises AdaptedLost."""
        with self._lock:
            sums = self._sums
            if sums is None:
                return False
            self._apply(sums, self._changes(sums))
            for name, sample in list(islice(sums.waiting.items(), CHUNK)):
                row = self._added(sums, sample)
                if row.any():
                    sums.state.add(row[None], [sample.label])
                sums.labels[name] = sample.label if row.any() else None
                del sums.waiting[name]
            return bool(sums.waiting)

    def _changes(self, sums: _Sums) -> Changes:
        with self._context.registry.read() as session:
            return adapted.since(session, sums.marks, publication=sums.publication)

    def _apply(self, sums: _Sums, changes: Changes) -> None:
        known = sums.labels.keys() | sums.waiting.keys()
        if not changes.complete(known):
            raise AdaptedLost("changes are missing from the feed")
        if any(samples.object_name(one.id) in known for one in changes.added):
            raise AdaptedLost("a sample was described again that is in the sums")
        for name in changes.removed:
            if sums.waiting.pop(name, None) is None and (label := sums.labels.pop(name, None)) is not None:
                sums.state.remove(self._removed(sums, name)[None], [label])
        sums.waiting.update((samples.object_name(one.id), one) for one in changes.added)
        sums.marks = changes.now
        if self._solved is not None and self._solved.marks.removals != changes.now.removals:
            self._solved = None  # it knows them

    def _solve(self) -> None:
        """Solve the head of the present sums, from a copy: reports do not wait meanwhile."""
        with self._lock:
            sums, solved = self._sums, self._solved
            if sums is None or not sums.state.samples or (solved is not None and solved.marks == sums.marks):
                return
            copy, marks = sums.state.copy(), sums.marks
        head = solve(copy, ridge=self._context.closed_form.ridge)
        with self._lock:
            if self._sums is sums and sums.marks.removals == marks.removals:
                self._solved = Adapted(sums.publication, sums.values, marks, copy.samples, head)

    def _report(self) -> None:
        """Record which changes the sums have, and their digest."""
        with self._lock:
            sums = self._sums
            marks = sums.marks if sums is not None and not sums.waiting else None
            known = self._reported if self._reported is not None and self._reported[0] == marks else None
            state = sums.state.copy() if sums is not None and marks is not None and known is None else None
        if marks is not None and state is not None:
            known = (marks, state.digest())
        self._reported = known
        with self._context.registry.write_beside_plans() as session:
            replicas.report_adapted(
                session, name=self._name, marks=marks, digest=known[1] if known is not None else None
            )

    def _lose(self, failure: Exception) -> None:
        if isinstance(failure, AdaptedLost):
            log.error("the tier of adapted descriptors starts again: %s", failure)
        else:
            log.error("the tier of adapted descriptors starts again", exc_info=failure)
            self._again = time.monotonic() + PATIENCE
        self.leave()

    # ------------------------------------------------------------------------------------------------------- objects

    def _added(self, sums: _Sums, sample: Added) -> Descriptor:
        """The adapted descriptor of a sample. Raises AdaptedLost; one that is missing or damaged is computed anew."""
        try:
            return self._read(sums, sample.id)
        except (ObjectMissing, adapting.DamagedDescriptor) as error:
            with self._context.registry.write_beside_plans() as session:
                adapted.forget(session, sample.id, sums.publication)
            raise AdaptedLost(f"adapted descriptor of sample {sample.id}: {sample_file.words(error)}") from None

    def _removed(self, sums: _Sums, name: str) -> Descriptor:
        sample_id = name.rsplit("/", 1)[1].split(".")[0]
        try:
            return self._read(sums, sample_id)
        except (ObjectMissing, adapting.DamagedDescriptor) as error:
            raise AdaptedLost(f"adapted descriptor of removed sample {sample_id}: {sample_file.words(error)}") from None

    def _read(self, sums: _Sums, sample_id: str) -> Descriptor:
        data = self._context.store.get(adapted.object_name(sums.publication, sample_id))
        return adapting.decode(data, width=sums.state.dim)

"""What leave-one-out says of the closed-form tier of one replica, of the survivors alone: lambda and temperature, which
the tier then answers with (`models.choice`), and a report of its quality with them.

It is computed in the background, from a copy of the tier's sums and the descriptors in the survivors' objects, and
kept in memory alone. A report carries the marks that it was computed at. A request for it is answered by the
registry's present marks: from the transaction that accepts an erasure on, no report that counts the samples is given,
until it has been computed anew. Additions make a report stale, and leave it true of the samples that it names.

Samples are visited in an order of their own (digest, then label), in portions of one size, by a factor of sums that are
equal to the bit, so replicas in one environment report the same; the others', as far as their arithmetic agrees.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from models.choice import Choice, choose, constants, digest_of, is_choosable, select
from models.closed_form import Accumulators, Sums
from models.descriptor import Descriptor
from models.leave_one_out import LeaveOneOut
from models.quality import QualityReport, Tally
from service.core.context import Context
from service.registry import feed
from service.registry.feed import Added
from service.registry.records import Marks
from service.serving.closed_form import ClosedFormTier
from service.serving.descriptor_files import Lost

log = logging.getLogger(__name__)

CHUNK = 64  # samples between two looks at whether the computation is still of use; last bits depend on it


class Scorer(Protocol):
    """Predicts samples whose labels are known; column i of its probabilities [n, labels] is `labels[i]`."""

    labels: tuple[str, ...]

    def scores(self, descriptors: Descriptor, labels: Sequence[str]) -> Sums:
        """Probabilities of these samples."""


class Outdated(Exception):
    """A sample that is being counted was removed, or the process stops."""


@dataclass(frozen=True)
class Measured:
    """A report, the marks and the closed form that it is of, and when they were current and it was done."""

    marks: Marks
    digest: str
    choice: Choice
    as_of: datetime
    computed_at: datetime
    report: QualityReport


class Quality:
    """The latest report, and the means to compute it. Safe to use from several threads."""

    def __init__(self, context: Context, tier: ClosedFormTier) -> None:
        self._context = context
        self._tier = tier
        self._measured: Measured | None = None
        self._computing = threading.Lock()  # held while something of samples is in memory
        self._taking = threading.Lock()  # of `_at`, and of publishing
        self._at: Marks | None = None  # of the sums that are being worked with
        self._outdated = threading.Event()
        self._ended = False

    def marks(self) -> Marks:
        """The registry's present marks."""
        with self._context.registry.read_one() as session:
            return feed.marks(session)

    def current(self, now: Marks | None = None) -> Measured | None:
        """The latest report, if it counts no removed sample; added ones may be missing from it.

        now  the marks, if they have just been read.
        """
        now = now if now is not None else self.marks()
        measured = self._measured
        return measured if measured is not None and measured.marks.removals == now.removals else None

    def is_done(self, now: Marks) -> bool:
        """Whether nothing is to be computed at the present marks: no report, and no choice for the tier."""
        wanted = self._context.settings.quality.enabled
        return (not wanted or self.current(now) is not None) and self._tier.is_settled(now)

    def compute(self) -> Measured | None:
        """Choose lambda and temperature from the present survivors, compute their report, and keep it.

        None, and the words are in the log if there is a fault, while there is nothing to report: fewer than two
        samples, a tier that is lost, a sample removed meanwhile, `quality.enabled` is off.
        """
        with self._computing:
            self._outdated.clear()
            try:
                return self._compute()
            except Outdated:
                return None
            except Lost as loss:
                log.warning("the quality of the closed form cannot be computed now: %s", loss)
                return None
            except Exception:  # not passed on: its frames hold what `forget` must be rid of
                log.exception("the quality of the closed form cannot be computed now; it will be tried again")
                return None
            finally:
                self._at = None

    def forget(self) -> None:
        """Drop all that counts removed samples in. Returns once none of it is in this process's memory any more."""
        with self._taking:
            now, at = self.marks(), self._at
            if self.current(now) is None:
                self._measured = None
            if at is None or at.removals == now.removals:
                return
            self._outdated.set()
        with self._computing:  # it looks for that after each portion of samples
            return

    def stop(self) -> None:
        """End a computation that is under way; there will be no other."""
        self._ended = True
        self._outdated.set()

    # ---------------------------------------------------------------------------------------------------- computing

    def _compute(self) -> Measured | None:
        as_of = self._context.clock()
        taken = self._take()
        if taken is None or taken[1].samples < 2:
            return None
        marks, state = taken
        del taken
        with self._context.registry.read() as session:
            survivors = feed.survivors(session, additions=marks.additions, kind=self._context.backbone.kind.name)
        self._check(marks)
        if len(survivors) != state.samples:
            raise Lost(f"{len(survivors)} samples are on record, and {state.samples} are in the sums")
        choice = self._choose(state, marks, survivors)
        if not self._context.settings.quality.enabled:
            return None
        digest = digest_of(state.digest(), choice)
        head = LeaveOneOut(state, ridge=choice.ridge, temperature=choice.temperature)
        report = self._report(head, marks, sorted(survivors, key=lambda one: (one.digest, one.label)))
        measured = Measured(marks, digest, choice, as_of, self._context.clock(), report)
        with self._taking:
            self._check(marks)
            self._measured = measured
        return measured

    def _take(self) -> tuple[Marks, Accumulators] | None:
        with self._taking:  # `forget` comes before, and then these sums are without the removed; or after, and waits
            taken = self._tier.accumulated()
            self._at = taken[0] if taken is not None else None
            return taken

    def _choose(self, state: Accumulators, marks: Marks, survivors: Sequence[Added]) -> Choice:
        """Lambda and temperature that the sums imply. The tier answers with them before the report is done."""
        spec = self._context.closed_form
        if not is_choosable(state.counts, spec):
            return constants(spec)
        descriptors, labels = self._read(select(survivors, state.counts), marks)
        began = time.perf_counter()

        def pause() -> None:
            nonlocal began
            self._check(marks)
            self._pause(time.perf_counter() - began)
            began = time.perf_counter()

        choice = choose(state, descriptors, labels, spec=spec, pause=pause)
        with self._taking:
            self._check(marks)
            self._tier.adopt(choice, marks)
        return choice

    def _read(self, chosen: Sequence[Added], marks: Marks) -> tuple[Descriptor, list[str]]:
        """Descriptors [n, dim] and labels of these samples."""
        parts: list[Descriptor] = []
        try:
            for descriptors, _ in self._tier.descriptors(chosen):
                parts.append(descriptors)
                self._check(marks)
        except Lost:  # perhaps of an object that was destroyed meanwhile, which is no fault
            self._check(marks)
            raise
        return np.concatenate(parts), [one.label for one in chosen]

    def _report(self, head: Scorer, marks: Marks, survivors: Sequence[Added]) -> QualityReport:
        tally = Tally(head.labels)
        for start in range(0, len(survivors), CHUNK):
            began = time.perf_counter()
            self._check(marks)
            try:
                for descriptors, labels in self._tier.descriptors(survivors[start : start + CHUNK]):
                    tally.add(labels, head.scores(descriptors, labels))
            except Lost:  # perhaps of an object that was destroyed meanwhile, which is no fault
                self._check(marks)
                raise
            self._pause(time.perf_counter() - began)
        return tally.report()

    def _check(self, marks: Marks) -> None:
        if self._ended or self._outdated.is_set() or self.marks().removals != marks.removals:
            raise Outdated

    def _pause(self, worked: float) -> None:
        """Leave the core to others, unless the computation has become outdated."""
        self._outdated.wait(worked * (1 / self._context.settings.quality.share - 1))

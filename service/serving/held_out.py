"""What the evaluation set says of the closed form that this replica serves: samples that it never learns from.

Computed in the background as the leave-one-out report is (`serving.quality`), by the very head that answers, kept in
memory alone, and let go of in the same way: a report is given only while no sample is removed that it counts, or that
the head had learned from. Before a replica says that it has let go of removed evaluation samples, nothing that was
computed from them is in its memory; only then are their objects destroyed.

A picture that some sample to learn from shows as well is not independent: it is counted apart. That is a function of
the survivors, in whatever order they came; when the other one is erased, the picture counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.closed_form import ClosedFormHead, Sums
from models.descriptor import Descriptor
from models.quality import NOTHING, QualityReport
from service.registry import descriptions, evaluation
from service.registry.feed import Added
from service.registry.records import Marks, MeasuringMarks
from service.registry.roles import EVALUATION
from service.serving.closed_form import Solved
from service.serving.quality import Measured, Outdated, Quality


@dataclass(frozen=True)
class HeldOutMeasured(Measured):
    """A report of evaluation samples. Its marks are sums: of what is learned from and of the evaluation set.

    learned         samples that the closed form had learned from.
    also_learned    evaluation samples that are not counted: a sample to learn from is the same picture.
    unknown_labels  of counted samples, that no sample to learn from has: these count as wrong.
    """

    learned: int
    also_learned: int
    unknown_labels: tuple[str, ...]


class _Asked:
    """The head that answers, asked for labels that it need not know."""

    def __init__(self, head: ClosedFormHead, temperature: float, more: set[str]) -> None:
        self.labels = tuple(sorted({*head.labels, *more}))
        self._head, self._temperature = head, temperature
        self._columns = [self.labels.index(label) for label in head.labels]

    def scores(self, descriptors: Descriptor, labels: Sequence[str]) -> Sums:
        """Probabilities [n, labels]; zero for what the head does not know."""
        found: Sums = np.zeros((len(descriptors), len(self.labels)))
        found[:, self._columns] = self._head.scores(descriptors, self._temperature)
        return found


@dataclass(frozen=True)
class _Set:
    """The evaluation set at some marks: what counts, and how many do not."""

    counted: tuple[Added, ...]
    also_learned: int


class HeldOut(Quality):
    """The latest report of the evaluation set, and the means to compute it. Safe to use from several threads."""

    def marks(self) -> Marks:
        """Sums of the present marks: each count only grows, so equal sums are of equal counts."""
        with self._context.registry.read_one() as session:
            return _sum(evaluation.marks(session))

    def size(self) -> int:
        """How many evaluation samples there are."""
        with self._context.registry.read_one() as session:
            held_out = evaluation.marks(session).held_out
        return held_out.additions - held_out.removals

    def current(self, now: Marks | None = None) -> HeldOutMeasured | None:
        """The latest report, if it counts no removed sample, nor one that had learned from one."""
        found = super().current(now)
        return found if isinstance(found, HeldOutMeasured) else None

    def is_done(self, now: Marks) -> bool:
        """Whether nothing is to be computed: there is no evaluation set, or a report of it and of what serves."""
        measured = self.current(now)
        return not self.size() or (measured is not None and measured.digest == self._serving())

    def let_go(self) -> int:
        """Drop all that knows removed samples; of how many evaluation samples nothing is in memory any more."""
        with self._context.registry.read_one() as session:
            removals = evaluation.marks(session).held_out.removals
        self.forget()
        return removals

    # ---------------------------------------------------------------------------------------------------- computing

    def _compute(self) -> HeldOutMeasured | None:
        as_of = self._context.clock()
        with self._taking:  # `let_go` comes before, and then nothing removed is read below; or after, and waits
            marks = self._at = self.marks()
        if not self.size():
            return None
        solved, summary = self._tier.catch_up(), self._tier.summary()
        chosen = self._chosen(marks, solved)
        if solved is None or solved.head is None or summary is None or chosen is None:
            return None
        if solved.choice != summary.choice:  # it was adopted between the two looks
            raise Outdated
        head = _Asked(solved.head, solved.choice.temperature, {one.label for one in chosen.counted})
        unknown = sorted({one.label for one in chosen.counted} - set(solved.head.labels))
        measured = HeldOutMeasured(
            marks=marks,
            digest=summary.digest,
            choice=solved.choice,
            as_of=as_of,
            computed_at=self._context.clock(),
            report=self._report_of(head, marks, chosen.counted),
            learned=summary.samples,
            also_learned=chosen.also_learned,
            unknown_labels=tuple(unknown),
        )
        with self._taking:
            self._check(marks)
            self._measured = measured
        return measured

    def _chosen(self, marks: Marks, solved: Solved | None) -> _Set | None:
        """The evaluation set; None while its samples wait to be described anew.

        Raises Outdated unless the head is whole, and all is of these marks.
        """
        with self._context.registry.read() as session:
            now = evaluation.marks(session)
            held_out = evaluation.survivors(session)
            digests = [one.digest for one in held_out]
            learned = evaluation.also_learned(session, digests, additions=now.learned.additions)
            kind = self._context.backbone.kind.name
            is_described = descriptions.is_complete(session, kind, role=EVALUATION)
        if solved is None or not is_described:
            return None
        if _sum(now) != marks or not solved.whole or solved.marks != now.learned:
            raise Outdated
        counted = [one for one in held_out if one.digest not in learned]
        counted.sort(key=lambda one: (one.digest, one.label))
        return _Set(tuple(counted), len(held_out) - len(counted))

    def _report_of(self, head: _Asked, marks: Marks, counted: Sequence[Added]) -> QualityReport:
        return self._report(head, marks, counted) if counted else NOTHING

    def _serving(self) -> str:
        """Digest of the closed form that answers; "" while it is lost."""
        summary = self._tier.summary()
        return summary.digest if summary is not None else ""


def _sum(marks: MeasuringMarks) -> Marks:
    learned, held_out = marks
    return Marks(learned.additions + held_out.additions, learned.removals + held_out.removals)

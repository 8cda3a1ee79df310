"""The quality of predictions whose right labels are known: accuracy, by label, confusion, and calibration.

Everything is counted in integers (confidences in units of 2^-32), so a report is the same in whatever order and
portions the predictions come. Calibration after Guo et al., On Calibration of Modern Neural Networks (ICML 2017):
predictions are put into bins of equal width by their confidence, and the calibration error is the mean difference
between confidence and accuracy of a bin, weighted by its predictions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.closed_form import Sums

BINS = 10  # of the reliability curve
MOST_PAIRS = 100  # of labels that are taken for each other, the most frequent
_UNIT = 1 << 32  # of a confidence
_Z = 1.959963984540054  # 97.5 % of a normal distribution is below it


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence: the mean confidence, and the share that is right."""

    confidence: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class LabelQuality:
    """A label: the share of its samples that is recognised, and of its predictions that is right; None without any."""

    label: str
    samples: int
    recall: float
    precision: float | None


@dataclass(frozen=True)
class Confusion:
    """How many samples of a label are taken for another one."""

    label: str
    predicted: str
    samples: int


@dataclass(frozen=True)
class QualityReport:
    """The quality of so many predictions; nothing of a single one.

    accuracy           share that is right.
    calibration_error  expected calibration error, 0 to 1.
    reliability        bins that are not empty, by rising confidence.
    labels             every label, by name.
    confusion          the most frequent pairs, at most MOST_PAIRS, most frequent first.
    """

    samples: int
    accuracy: float
    calibration_error: float
    reliability: tuple[Bin, ...]
    labels: tuple[LabelQuality, ...]
    confusion: tuple[Confusion, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the accuracy, if these samples are as good as drawn at random."""
        return interval(round(self.accuracy * self.samples), self.samples)


NOTHING = QualityReport(0, 0.0, 0.0, (), (), ())  # of no prediction: nothing can be said


def interval(right: int, samples: int) -> tuple[float, float]:
    """A confidence interval, of 95 %, for the share that so many right ones of so many samples stand for.

    Wilson's (1927), which is sensible for few samples and for shares near 0 or 1. Of nothing: (0, 1).
    """
    if not samples:
        return 0.0, 1.0
    share, z = right / samples, _Z
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, centre - half), min(1.0, centre + half)


class Tally:
    """Counts of predictions, from which a report is made. Not thread-safe."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._columns = {label: column for column, label in enumerate(self._labels)}
        self._pairs: Counter[tuple[int, int]] = Counter()  # (right label, predicted label), as columns
        self._bins = [[0, 0, 0] for _ in range(BINS)]  # predictions, right ones, sum of confidences

    def add(self, labels: Sequence[str], probabilities: Sums) -> None:
        """Count predictions: the right labels [n], and probabilities [n, labels]. The first of equals is predicted."""
        own = np.array([self._columns[label] for label in labels], dtype=np.intp)
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(own)), predicted]
        self._pairs.update(zip(own.tolist(), predicted.tolist(), strict=True))
        self._calibrate(confidence, predicted == own)

    def _calibrate(self, confidence: Sums, right: npt.NDArray[np.bool_]) -> None:
        places = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
        units = np.rint(confidence * _UNIT).astype(np.int64)
        for place, is_right, amount in zip(places.tolist(), right.tolist(), units.tolist(), strict=True):
            counted = self._bins[place]
            counted[0] += 1
            counted[1] += is_right
            counted[2] += amount

    def report(self) -> QualityReport:
        """The report of what was added. Raises ValueError if that was nothing."""
        samples = self._pairs.total()
        if not samples:
            raise ValueError("No prediction was counted.")
        gaps = sum(abs(confidences - right * _UNIT) for _, right, confidences in self._bins)
        return QualityReport(
            samples=samples,
            accuracy=sum(right for _, right, _ in self._bins) / samples,
            calibration_error=gaps / (samples * _UNIT),
            reliability=tuple(Bin(sum_ / (n * _UNIT), right / n, n) for n, right, sum_ in self._bins if n),
            labels=self._by_label(),
            confusion=self._confusion(),
        )

    def _by_label(self) -> tuple[LabelQuality, ...]:
        members, answers, right = Counter[int](), Counter[int](), Counter[int]()
        for (own, predicted), count in self._pairs.items():
            members[own] += count
            answers[predicted] += count
            right[own] += count if own == predicted else 0
        return tuple(
            LabelQuality(
                label=label,
                samples=members[column],
                recall=right[column] / members[column],
                precision=right[column] / answers[column] if answers[column] else None,
            )
            for column, label in enumerate(self._labels)
            if members[column]
        )

    def _confusion(self) -> tuple[Confusion, ...]:
        wrong = [(-count, *pair) for pair, count in self._pairs.items() if pair[0] != pair[1]]
        largest = sorted(wrong)[:MOST_PAIRS]  # of equals, by the labels' names: they are sorted
        return tuple(Confusion(self._labels[own], self._labels[other], -count) for count, own, other in largest)

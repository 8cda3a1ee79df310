"""A global ridge head on frozen descriptors that can forget a sample exactly: its state is sums of integers.

Ridge regression on one-hot labels (Hoerl and Kennard, 1970): W = (X'X + lambda I)^-1 X'Y. Descriptors are unit vectors,
stored as integers q = rint(2^14 x). Then X'X and X'Y are sums of integers, and in float64 every partial sum below 2^53
is exact: products of any chunking, in any order, on any number of threads give the same bits, and subtracting a
sample gives the same bits as never having added it. So the accumulators are a function of the multiset of survivors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from models.embedding import DESCRIPTOR, Descriptor
from models.spec import canonical_json

SCALE = 1 << 14
# |q| <= 2^14 + 1 for a unit vector, so a sum of n products stays below 2^53 while n is below this.
MOST_SAMPLES = 1 << 24

Sums = npt.NDArray[np.float64]


class TooManySamples(ValueError):
    """With one sample more, sums might no longer be exact."""


class Accumulators:
    """X'X, and for each label the sum of its samples' features: integers in float64.

    Not thread-safe. Labels come with their first sample and go with their last.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.gram: Sums = np.zeros((dim, dim))
        self.sums: dict[str, Sums] = {}
        self.counts: dict[str, int] = {}

    @property
    def samples(self) -> int:
        """The number of samples in the sums."""
        return sum(self.counts.values())

    def add(self, descriptors: Descriptor, labels: Sequence[str]) -> None:
        """Add samples: unit vectors [n, dim] and their labels. Raises TooManySamples or ValueError."""
        rows = quantise(descriptors)
        if self.samples + len(rows) >= MOST_SAMPLES:
            raise TooManySamples(f"At most {MOST_SAMPLES - 1:,} samples can be summed exactly.")
        self._change(rows, labels, +1)

    def remove(self, descriptors: Descriptor, labels: Sequence[str]) -> None:
        """Subtract samples that were added. Raises ValueError, changing nothing, if a label has not so many samples."""
        for label in set(labels):
            if self.counts.get(label, 0) < list(labels).count(label):
                raise ValueError("There are not so many samples of a label as are to be removed.")
        self._change(quantise(descriptors), labels, -1)

    def merge(self, other: Accumulators) -> None:
        """Add all samples of another. Raises TooManySamples, changing nothing."""
        if self.samples + other.samples >= MOST_SAMPLES:
            raise TooManySamples(f"At most {MOST_SAMPLES - 1:,} samples can be summed exactly.")
        self.gram += other.gram
        for label, count in other.counts.items():
            self._count(label, other.sums[label], count)

    def _change(self, rows: Sums, labels: Sequence[str], sign: int) -> None:
        if rows.shape != (len(labels), self.dim):
            raise ValueError(f"{len(labels)} descriptors of {self.dim} entries are needed, not {list(rows.shape)}.")
        self.gram += sign * (rows.T @ rows)
        names = np.array(labels, dtype=object)
        for label in sorted(set(labels)):
            chosen = rows[names == label]
            self._count(label, sign * chosen.sum(axis=0), sign * len(chosen))

    def _count(self, label: str, total: Sums, count: int) -> None:
        left = self.counts.get(label, 0) + count
        if left:
            self.counts[label] = left
            self.sums[label] = self.sums.get(label, np.zeros(self.dim)) + total
        else:
            self.counts.pop(label, None)
            self.sums.pop(label, None)

    def copy(self) -> Accumulators:
        """A copy, which further changes of this one leave alone."""
        other = Accumulators(self.dim)
        other.gram, other.counts = self.gram.copy(), dict(self.counts)
        other.sums = dict(self.sums)  # each is replaced, never changed
        return other

    def digest(self) -> str:
        """Hex SHA-256 of the sums: equal for the same samples, whatever else was ever added and removed."""
        labels = sorted(self.counts)
        hashed = hashlib.sha256(b"oubli/closed-form/1")
        hashed.update(canonical_json([DESCRIPTOR, self.dim, [(label, self.counts[label]) for label in labels]]))
        for part in (self.gram, *(self.sums[label] for label in labels)):
            hashed.update((part + 0.0).astype("<f8").tobytes())  # + 0.0: no negative zeros
        return hashed.hexdigest()


@dataclass(frozen=True)
class ClosedFormHead:
    """A solved head: `weight` float64 [dim, labels] for unit vectors; column i belongs to labels[i]."""

    labels: tuple[str, ...]
    weight: Sums

    def scores(self, descriptors: Descriptor, temperature: float) -> Sums:
        """Probabilities [n, labels]: softmax of the regression's outputs, divided by the temperature."""
        logits = (descriptors.astype(np.float64) @ self.weight) / temperature
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        probabilities: Sums = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities


def solve(state: Accumulators, *, ridge: float) -> ClosedFormHead:
    """The head that the accumulators imply. Raises ValueError if there are no samples, or `ridge` is not positive.

    A label's targets are scaled by the square root of how much rarer it is than the mean label. Unscaled, labels with a
    tenth of the others' samples are hardly ever answered; scaled in full, a single sample with a label of its own would
    take a third of all answers (docs/explanation/evaluation.md).

    ridge  lambda, in units of the features' square; it does not grow with the number of samples.
    """
    if not state.counts:
        raise ValueError("There are no samples, so there is no label to answer with.")
    if not ridge > 0:
        raise ValueError(f"lambda must be positive, not {ridge}.")
    labels = tuple(sorted(state.counts))
    system = state.gram / SCALE**2
    system[np.diag_indices(state.dim)] += ridge
    balance = [np.sqrt(state.samples / (len(labels) * state.counts[label])) for label in labels]
    targets = np.stack([state.sums[label] for label in labels], axis=1) / SCALE * balance
    factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    weight: Sums = cho_solve(factor, targets, overwrite_b=True, check_finite=False)
    return ClosedFormHead(labels, weight)


def quantise(descriptors: Descriptor) -> Sums:
    """rint(2^14 x) as float64. Raises ValueError for anything but unit vectors [n, dim]."""
    rows = np.asarray(descriptors, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"Descriptors must be [n, dim], not {list(rows.shape)}.")
    norms = np.sqrt(np.sum(rows * rows, axis=1))
    if not np.all(np.abs(norms - 1.0) < 1e-3):  # also False for NaN
        raise ValueError("A descriptor is not a unit vector.")
    return np.rint(rows * SCALE)


def accumulate(dim: int, chunks: Iterable[tuple[Descriptor, Sequence[str]]]) -> Accumulators:
    """Accumulators of all these samples, added chunk by chunk."""
    state = Accumulators(dim)
    for descriptors, labels in chunks:
        state.add(descriptors, labels)
    return state

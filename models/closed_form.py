"""A global ridge head on frozen descriptors that can forget a sample exactly: its state is sums of integers.

Ridge regression on one-hot labels (Hoerl and Kennard, 1970): W = (X'X + lambda I)^-1 X'Y. Descriptors are unit vectors
as integers q = rint(2^14 x). Then X'X and X'Y are sums of integers, and in float64 every partial sum below 2^53
is exact: products of any chunking, in any order, on any number of threads give the same bits, and subtracting a
sample gives the same bits as never having added it. So the accumulators are a function of the multiset of survivors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dger

from models.cholesky import Cholesky
from models.descriptor import SCALE, Descriptor, is_descriptor
from models.descriptor_kind import QUICK, RIDGES
from models.spec import canonical_json

# |q| <= 1.004 x 2^14 for a rounded unit vector, so a sum of n products stays below 2^53 while n is below this.
MOST_SAMPLES = 1 << 24
BLOCK = 256  # rows of X'X that are computed or hashed at a time: a second matrix of its size would be too large
FEW = 64  # samples; with more, half of X'X is computed and copied to the other half

Sums = npt.NDArray[np.float64]
Rows = Descriptor | npt.NDArray[np.floating]  # descriptors [n, dim], or unit vectors that are rounded first
Entries = npt.NDArray[np.intp]


class TooManySamples(ValueError):
    """With one sample more, sums might no longer be exact."""


class Accumulators:
    """X'X, and for each label the sum of its samples' features: integers in float64.

    kind  name of the descriptors' kind, which is in the digest.

    Not thread-safe. Labels come with their first sample and go with their last.
    """

    def __init__(self, dim: int, *, kind: str = QUICK) -> None:
        self.dim = dim
        self.kind = kind
        self.gram: Sums = np.zeros((dim, dim))
        self.sums: dict[str, Sums] = {}
        self.counts: dict[str, int] = {}

    @property
    def samples(self) -> int:
        """The number of samples in the sums."""
        return sum(self.counts.values())

    def add(self, descriptors: Rows, labels: Sequence[str]) -> None:
        """Add samples: their descriptors [n, dim] and their labels. Raises TooManySamples or ValueError."""
        rows = quantise(descriptors)
        if self.samples + len(rows) >= MOST_SAMPLES:
            raise TooManySamples(f"At most {MOST_SAMPLES - 1:,} samples can be summed exactly.")
        self._change(rows, labels, +1)

    def remove(self, descriptors: Rows, labels: Sequence[str]) -> None:
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
        self._change_gram(rows, sign)
        names = np.array(labels, dtype=object)
        for label in sorted(set(labels)):
            chosen = rows[names == label]
            self._count(label, sign * chosen.sum(axis=0), sign * len(chosen))

    def _change_gram(self, rows: Sums, sign: int) -> None:
        """X'X += sign x rows' rows, in place, with Python's lock released but for a single row's few milliseconds."""
        if len(rows) == 1:
            self.gram = dger(float(sign), rows[0], rows[0], a=self.gram.T, overwrite_a=True).T
            return
        few, change = len(rows) <= FEW, np.add if sign > 0 else np.subtract
        for start in range(0, self.dim, BLOCK):
            block, columns = slice(start, start + BLOCK), slice(0 if few else start, None)
            product = rows[:, block].T @ rows[:, columns]  # [BLOCK, dim], without what is left of the diagonal if many
            change(self.gram[block, columns], product, out=self.gram[block, columns])
        for start in range(0, 0 if few else self.dim, BLOCK):
            block, below = slice(start, start + BLOCK), slice(start + BLOCK, None)
            self.gram[below, block] = self.gram[block, below].T

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
        other = Accumulators(self.dim, kind=self.kind)
        other.gram, other.counts = self.gram.copy(), dict(self.counts)
        other.sums = dict(self.sums)  # each is replaced, never changed
        return other

    def digest(self) -> str:
        """Hex SHA-256 of the sums: equal for the same samples, whatever else was ever added and removed."""
        labels = sorted(self.counts)
        hashed = hashlib.sha256(b"oubli/closed-form/1")
        hashed.update(canonical_json([self.kind, self.dim, [(label, self.counts[label]) for label in labels]]))
        blocks = (self.gram[start : start + BLOCK] for start in range(0, self.dim, BLOCK))
        for part in chain(blocks, (self.sums[label] for label in labels)):
            hashed.update((part + 0.0).astype("<f8").data)  # + 0.0: no negative zeros
        return hashed.hexdigest()


@dataclass(frozen=True)
class ClosedFormHead:
    """A solved head: `weight` float64 [dim, labels] for unit vectors; column i belongs to labels[i].

    entries  of a descriptor, that it was solved from; None: all.
    """

    labels: tuple[str, ...]
    weight: Sums
    entries: Entries | None = None

    def scores(self, descriptors: Rows, temperature: float) -> Sums:
        """Probabilities [n, labels]: softmax of the regression's outputs, divided by the temperature."""
        seen = descriptors if self.entries is None else descriptors[:, self.entries]
        rows = seen.astype(np.float64) / (SCALE if seen.dtype == np.int16 else 1)
        logits = (rows @ self.weight) / temperature
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        probabilities: Sums = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities


def solve(
    state: Accumulators, *, ridge: float, entries: Entries | None = None, overwrite: bool = False
) -> ClosedFormHead:
    """The head that the accumulators imply. Raises ValueError if there are no samples, or `ridge` is not positive.

    A label's targets are scaled by the square root of how much rarer it is than the mean label. Unscaled, labels with a
    tenth of the others' samples are hardly ever answered; scaled in full, a single sample with a label of its own would
    take a third of all answers (docs/explanation/evaluation.md).

    ridge      lambda, in units of the features' square; it does not grow with the number of samples.
    entries    of a descriptor to solve for, as if it had no others; None: all.
    overwrite  `state` will not be used any more: no second matrix of its size is needed.
    """
    if not state.counts:
        raise ValueError("There are no samples, so there is no label to answer with.")
    if not ridge > 0:
        raise ValueError(f"lambda must be positive, not {ridge}.")
    labels = tuple(sorted(state.counts))
    system = state.gram if entries is None else state.gram[np.ix_(entries, entries)]
    system = np.divide(system, SCALE**2, out=system if overwrite or entries is not None else None)
    system[np.diag_indices(len(system))] += ridge
    balance = [np.sqrt(state.samples / (len(labels) * state.counts[label])) for label in labels]
    sums = [state.sums[label] if entries is None else state.sums[label][entries] for label in labels]
    targets = np.stack(sums, axis=1) / SCALE * balance
    return ClosedFormHead(labels, Cholesky(system).solve(targets), entries)


def summarise(state: Accumulators, entries: Entries) -> ClosedFormHead:
    """The head of some entries alone, as `quick` descriptors would have it: solved in milliseconds where a whole head
    takes its time. Lambda is that of unit vectors, in proportion to the part of a descriptor that these entries are.
    """
    part = float(np.diagonal(state.gram)[entries].sum()) / SCALE**2 / max(state.samples, 1)
    return solve(state, ridge=RIDGES["quick"] * max(part, 1e-6), entries=entries)


def quantise(descriptors: Rows) -> Sums:
    """rint(2^14 x) as float64 [n, dim]. Raises ValueError for anything but descriptors or unit vectors."""
    if descriptors.ndim != 2:
        raise ValueError(f"Descriptors must be [n, dim], not {list(descriptors.shape)}.")
    rows: Sums = np.asarray(descriptors, dtype=np.float64)
    if descriptors.dtype == np.int16:
        if not is_descriptor(rows):
            raise ValueError("A descriptor is not a unit vector.")
        return rows
    norms = np.sqrt(np.sum(rows * rows, axis=1))
    if not np.all(np.abs(norms - 1.0) < 1e-3):  # also False for NaN
        raise ValueError("A descriptor is not a unit vector.")
    return np.rint(rows * SCALE)


def accumulate(dim: int, chunks: Iterable[tuple[Rows, Sequence[str]]], *, kind: str = QUICK) -> Accumulators:
    """Accumulators of all these samples, added chunk by chunk; `kind` as in `Accumulators`."""
    state = Accumulators(dim, kind=kind)
    for descriptors, labels in chunks:
        state.add(descriptors, labels)
    return state

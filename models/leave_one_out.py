"""Leave-one-out predictions of the closed form: what the head of all *other* samples answers for each sample.

For ridge regression no head need be solved anew (Allen, 1974; Hastie, Tibshirani and Friedman, The Elements of
Statistical Learning, section 7.10): with the hat value h = x' (X'X + lambda I)^-1 x, the prediction without the sample
is (x'W - h y) / (1 - h), for all labels at once. Labels' targets are scaled by rarity (`closed_form.solve`); the scale
is a factor of each column, so it is applied afterwards, with the counts of the samples that are left. A label that no
other sample has does not exist then. So this is the prediction of `solve` without the sample, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.cholesky import Cholesky
from models.closed_form import Accumulators, Rows, Sums, quantise
from models.descriptor import SCALE


class LeaveOneOut:
    """Predictions for samples that are in the sums, each as if it were not. Safe to use from several threads.

    Holds one matrix of the sums' size, [dim, dim] in float64, and a weight [dim, labels].
    """

    def __init__(self, state: Accumulators, *, ridge: float, temperature: float) -> None:
        """Factor the sums in place: `state` must not be used afterwards.

        Raises ValueError if there are fewer than two samples, or `ridge` is not positive.
        """
        if state.samples < 2:
            raise ValueError("With fewer than two samples there is nothing left to predict one from.")
        if not ridge > 0:
            raise ValueError(f"lambda must be positive, not {ridge}.")
        self.labels = tuple(sorted(state.counts))
        self._ridge, self._temperature = ridge, temperature
        self._columns = {label: column for column, label in enumerate(self.labels)}
        self._counts = np.array([state.counts[label] for label in self.labels], dtype=np.float64)
        system = state.gram
        system /= SCALE**2
        system[np.diag_indices(state.dim)] += ridge
        self._factor = Cholesky(system)
        targets = np.stack([state.sums[label] for label in self.labels], axis=1) / SCALE
        self._weight = self._factor.solve(targets)

    def scores(self, descriptors: Rows, labels: Sequence[str]) -> Sums:
        """Probabilities [n, labels] of these samples, each from the head of all others; column i is `labels[i]`.

        descriptors  unit vectors [n, dim], as they were added, and their labels. Raises ValueError or KeyError for what
                     cannot be in the sums.
        """
        logits = self.outputs(descriptors, labels) / self._temperature
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        probabilities: Sums = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def outputs(self, descriptors: Rows, labels: Sequence[str]) -> Sums:
        """The regression's outputs [n, labels], of which `scores` is the softmax at a temperature.

        Minus infinity for a label that no other sample has. Arguments and errors as of `scores`.
        """
        rows = quantise(descriptors) / SCALE  # [n, dim]
        own = np.array([self._columns[label] for label in labels], dtype=np.intp)
        each = np.arange(len(rows))
        halves = self._factor.halves(rows)  # [dim, n]
        hat = np.einsum("dn,dn->n", halves, halves)
        outputs: Sums = rows @ self._weight  # [n, labels]
        outputs[each, own] -= hat
        # Exactly, 1 - h >= lambda / (lambda + |x|^2). Rounding must not take it to zero where lambda is tiny.
        least = self._ridge / (self._ridge + np.einsum("nd,nd->n", rows, rows))
        outputs /= np.maximum(1.0 - hat, least)[:, None]
        outputs *= self._balance(own)
        gone = self._counts[own] == 1
        outputs[np.flatnonzero(gone), own[gone]] = -np.inf
        return outputs

    def _balance(self, own: npt.NDArray[np.intp]) -> Sums:
        """The scale of each label's targets [n, labels] without a sample of label `own` [n]; as in `solve`."""
        counts = np.repeat(self._counts[None, :], len(own), axis=0)
        counts[np.arange(len(own)), own] -= 1
        known = np.count_nonzero(counts, axis=1)[:, None]
        left = self._counts.sum() - 1
        balance: Sums = np.sqrt(left / (known * np.maximum(counts, 1)))
        return balance

"""Descriptors: what the closed-form tier is told of an image (of which kind: `models.descriptor_kind`).

A descriptor is a unit vector times 2^14, rounded to integers: whatever is fitted on descriptors is then a function of
sums of integers, which are exact in any order (`models.closed_form`), and an entry takes two bytes in a sample's file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Descriptor = npt.NDArray[np.int16]  # [width], or [n, width]; all zeros where the features are zero or not finite

SCALE = 1 << 14
# Rounding moves each entry by at most a half: with 8,192 entries the norm of a unit vector by at most 46 of 16,384.
ROUNDING = 4e-3


def quantise(vectors: npt.NDArray[np.floating]) -> Descriptor:
    """rint(2^14 x) of unit vectors [n, width]; zeros for a row with an entry that is not finite."""
    finite = np.isfinite(vectors).all(axis=-1, keepdims=True)
    rounded: Descriptor = np.rint(np.where(finite, vectors, 0.0).astype(np.float64) * SCALE).astype(np.int16)
    return rounded


def is_descriptor(rows: npt.NDArray[np.float64]) -> bool:
    """Whether every row [n, width] of integers is a unit vector, scaled and rounded."""
    norms = np.sqrt(np.sum(rows * rows, axis=1)) / SCALE
    return bool(np.all(np.abs(norms - 1.0) < ROUNDING))

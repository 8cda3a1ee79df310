"""Kinds of descriptors: what the closed-form tier is told of an image, and how it is named in digests and files.

A descriptor is a unit vector times 2^14, rounded to integers: whatever is fitted on descriptors is then a function of
sums of integers, which are exact in any order (`models.closed_form`), and an entry takes two bytes in a sample's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Features = Literal["quick", "rich", "richest"]
Descriptor = npt.NDArray[np.int16]  # [width], or [n, width]; all zeros where the features are zero or not finite

SCALE = 1 << 14
# Rounding moves each entry by at most a half: with 8,192 entries the norm of a unit vector by at most 46 of 16,384.
ROUNDING = 4e-3

QUICK = "every block but the first/1"  # as the digests of earlier releases say, and what files without a name contain
RIDGES: dict[Features, float] = {"quick": 0.3, "rich": 0.1, "richest": 0.1}  # docs/explanation/evaluation.md


@dataclass(frozen=True)
class DescriptorKind:
    """What a descriptor consists of.

    features  quick    channel means of the stages of a convolutional network, of one view. Of another network, its
                       pooled features.
              rich     channel means of all blocks, and channel standard deviations of the stages.
              richest  as well as these, the means of each quarter (2 x 2) of the last stages.
    mirrored  both are of two views, the image and its mirror image, whose vectors are added; `quick` is always of one.
    """

    features: Features = "rich"
    mirrored: bool = True

    @property
    def views(self) -> int:
        """How many views of an image the backbone computes: 1, or 2 with the mirror image."""
        return 2 if self.mirrored and self.features != "quick" else 1

    @property
    def name(self) -> str:
        """The kind and its version, at most 64 characters: in digests of closed forms, the registry and samples' files.

        A kind that comes to mean other numbers gets another version.
        """
        if self.features == "quick":
            return QUICK
        return f"{self.features}{'+mirror' if self.views == 2 else ''}/1"


def quantise(vectors: npt.NDArray[np.floating]) -> Descriptor:
    """rint(2^14 x) of unit vectors [n, width]; zeros for a row with an entry that is not finite."""
    finite = np.isfinite(vectors).all(axis=-1, keepdims=True)
    rounded: Descriptor = np.rint(np.where(finite, vectors, 0.0).astype(np.float64) * SCALE).astype(np.int16)
    return rounded


def is_descriptor(rows: npt.NDArray[np.float64]) -> bool:
    """Whether every row [n, width] of integers is a unit vector, scaled and rounded."""
    norms = np.sqrt(np.sum(rows * rows, axis=1)) / SCALE
    return bool(np.all(np.abs(norms - 1.0) < ROUNDING))

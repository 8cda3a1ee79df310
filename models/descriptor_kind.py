"""Kinds of descriptors: which features of an image the closed-form tier is told, and how a kind is named.

Without arrays: settings and commands that only talk name kinds, and must not load NumPy for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Features = Literal["quick", "rich", "richest"]

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

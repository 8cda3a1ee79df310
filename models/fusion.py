"""Fusion: one answer from a cluster's prompt and the closed-form head, which has seen all samples.

A weighted mean of their probabilities (a linear opinion pool; Genest and Zidek, 1986). The prompt's weight grows with
the square root of its cluster's share of all samples: measured on CIFAR-10
(docs/explanation/evaluation.md), the best weight is about 0.5 for a prompt that has seen all samples, 0.2 for one that
has seen a tenth; a prompt that has seen less than a hundredth improves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LEAST_SHARE = 0.01


def weight(members: int, samples: int) -> float:
    """The weight of a prompt trained on `members` of `samples`: 0 up to a hundredth of them, 1/2 for all of them.

    Where the closed form knows fewer samples than the prompt, which happens while samples are described anew, each
    weighs as many as it knows.
    """
    if members >= samples:
        return members / (members + samples) if members else 0.5
    least = math.sqrt(LEAST_SHARE)
    share = members / samples
    return 0.5 * max(0.0, math.sqrt(share) - least) / (1.0 - least)


def fuse(prompt: Mapping[str, float], closed_form: Mapping[str, float], *, share: float) -> dict[str, float]:
    """Probabilities of every label of either learner; `share` is the prompt's weight."""
    labels = sorted({*prompt, *closed_form})
    return {label: share * prompt.get(label, 0.0) + (1.0 - share) * closed_form.get(label, 0.0) for label in labels}

"""Fusion: one answer from a cluster's prompt and the closed-form head, which has seen all samples.

A weighted mean of their probabilities (a linear opinion pool; Genest and Zidek, 1986). The prompt's weight grows with
the square root of its cluster's share of all samples: measured on CIFAR-10
(docs/explanation/evaluation.md), the best weight is about 0.5 for a prompt that has seen all samples, 0.2 for one that
has seen a tenth; a prompt that has seen less than a hundredth improves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

LEAST_SHARE = 0.01
LEAST = 1e-12  # of a probability, so that it has a logarithm


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


def pool(
    labels: Sequence[str], said: npt.NDArray[np.float64], others: Sequence[str], beside: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Two heads' probabilities as one [n, labels]: the normalised geometric mean (a logarithmic opinion pool).

    Of a label that the second head does not know, the first says what there is to say.

    said    [n, labels] of the first head.
    beside  [n, others] of the second; labels of its own are left out.
    """
    column = {label: place for place, label in enumerate(others)}
    known = [place for place, label in enumerate(labels) if label in column]
    first = np.log(np.maximum(said, LEAST))
    second = first.copy()
    second[:, known] = np.log(np.maximum(beside[:, [column[labels[place]] for place in known]], LEAST))
    mean = (first + second) / 2
    pooled = np.exp(mean - mean.max(axis=1, keepdims=True))
    normalised: npt.NDArray[np.float64] = pooled / pooled.sum(axis=1, keepdims=True)
    return normalised

"""Membership inference: can an attacker who asks the model tell who was in? RMIA (Zarifzadeh et al., arXiv 2312.03262).

The offline attack: a sample's score is how often it is relatively more likely, under the attacked model than under
reference models that have seen neither, than samples of the population. Of the paper's settings: gamma 1, and the share
`A` by which what reference models say of others is taken for what they would say of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from service.evaluation.learners import Probabilities

A = 0.3
LEAST = 1e-6  # probability
RESAMPLED = 1000

Likelihoods = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Attack:
    """Area under the attacker's ROC curve, 0.5 for a coin; and its 95 % interval, by bootstrap over both groups."""

    auc: float
    low: float
    high: float


def likelihoods(said: Probabilities, truth: npt.NDArray[np.int64]) -> Likelihoods:
    """Probability [n] that each sample's own label was given."""
    chosen: Likelihoods = np.maximum(said[np.arange(len(truth)), truth], LEAST)
    return chosen


def rmia(
    target: Likelihoods, references: Likelihoods, target_others: Likelihoods, references_others: Likelihoods
) -> Likelihoods:
    """Scores [n]: the higher, the likelier a member.

    target, references                what the attacked model [n], and each reference [r, n], say of the samples.
    target_others, references_others  the same of m samples of the population.
    """
    ratio = target / _expected(references)
    others = target_others / _expected(references_others)
    scores: Likelihoods = (ratio[:, None] > others[None, :]).mean(axis=1)
    return scores


def _expected(references: Likelihoods) -> Likelihoods:
    """What models are expected to say, half of which have seen the sample."""
    unseen = references.mean(axis=0)
    expected: Likelihoods = 0.5 * ((1.0 + A) * unseen + (1.0 - A))
    return expected


def attack(members: Likelihoods, others: Likelihoods, *, seed: int = 0) -> Attack:
    """How well scores tell members from others."""
    random = np.random.default_rng(seed)

    drawn = [_auc(random.choice(members, len(members)), random.choice(others, len(others))) for _ in range(RESAMPLED)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Attack(_auc(members, others), float(low), float(high))


def _auc(ones: Likelihoods, zeros: Likelihoods) -> float:
    """By the Mann-Whitney statistic: how often one is above a zero; half of the ties."""
    ranks = rankdata(np.concatenate([ones, zeros]))[: len(ones)]
    return float((ranks.sum() - len(ones) * (len(ones) + 1) / 2) / (len(ones) * len(zeros)))

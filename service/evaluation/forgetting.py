"""Cost of a deletion, by comparing plans; nothing is built. In sample-epochs, and in parts that are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.evaluation.method import Method, Part

OWNED = 20  # samples that each owner gave
TRIALS = {
    1: 50,
    10: 20,
    100: 5,
    1000: 2,
}  # by how many random samples go at once; fewer where it is dear, and varies less
OWNERS = 20  # that are erased, one at a time


@dataclass(frozen=True)
class Cost:
    """Means over trials. `touched`, as in figures.json: models that had seen a forgotten sample, or whose
    members its erasure changed.
    """

    gone: str
    sample_epochs: float
    touched: float
    trials: int


def costs(method: Method, count: int, *, seed: int) -> list[Cost]:
    """Of forgetting some of `count` samples, at random and by owner."""
    before = {part.key: part for part in method.parts(range(count))}
    found = []
    for name, trials in _deletions(count, seed):
        spent, touched = zip(*(_compare(method, count, gone, before) for gone in trials), strict=True)
        found.append(Cost(name, float(np.mean(spent)), float(np.mean(touched)), len(trials)))
    return found


def _compare(method: Method, count: int, gone: Sequence[int], before: dict[str, Part]) -> tuple[int, int]:
    left = set(gone)
    after = {part.key: part for part in method.parts([row for row in range(count) if row not in left])}
    spent = sum(part.sample_epochs for key, part in after.items() if key not in before)
    return spent, sum(part.key not in after for part in models(before.values()))


def models(parts: Iterable[Part]) -> list[Part]:
    """The parts of clusters or shards, or else those that are trained: a closed form beside them subtracts."""
    chosen = list(parts)
    return [part for part in chosen if part.region is not None] or [p for p in chosen if p.sample_epochs] or chosen


def _deletions(count: int, seed: int) -> Iterator[tuple[str, list[list[int]]]]:
    """Names, and rows to be forgotten together."""
    random = np.random.default_rng([20404, seed])
    for gone, trials in TRIALS.items():
        if gone < count:
            yield str(gone), [random.choice(count, gone, replace=False).tolist() for _ in range(trials)]
    owners = np.array_split(random.permutation(count), max(1, count // OWNED))
    if len(owners) > 1:
        yield "owner", [rows.tolist() for rows in owners[:OWNERS]]


def expected_cost(parts: Sequence[Part], count: int) -> float:
    """sum(n_i^2) / N over the last parts of each chain: samples that share a model with a random one."""
    trained = models(parts)
    continued = {part.after for part in trained}
    sizes = [len(part.rows) for part in trained if part.key not in continued]
    return float(sum(size**2 for size in sizes) / count)

"""SISA: models by chance, each a chain of slices, all of which answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.descent import Progress
from models.partition import Interval
from models.spec import sha256
from service.evaluation import learners
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import BuiltModels, Part, Setting, cost_of
from service.evaluation.pool import Pool


class Sharded:
    """SISA (Bourtoule et al., arXiv 1912.03817): shards by chance, each trained slice by slice; their mean answers.

    A slice's training goes on from the one before, on all slices so far, and both are kept: a deletion starts again at
    the slice with the sample. Shard and slice are drawn from the image's digest, so that no other sample moves.
    With e epochs in all and R slices, each gets 2 e / (R + 1), as in the paper: the budget of e epochs at once.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        budget = setting.budget
        self._epochs = _sisa_epochs(budget.training.epochs_of(len(setting.pool)), budget.slices)
        self.passes = float(budget.shards)

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """Every shard's slices in turn; an empty shard or slice is left out."""
        parts: list[Part] = []
        budget = self._setting.budget
        drawn = {i: self._draw(self._setting.pool.digests[i]) for i in survivors}
        for shard in range(budget.shards):
            after: str | None = None
            for number in range(budget.slices):
                rows = tuple(i for i in survivors if drawn[i][0] == shard and drawn[i][1] <= number)
                if not rows or not any(drawn[i][1] == number for i in rows):
                    continue
                training = replace(budget.training, epochs=self._epochs[number])
                key = self._setting.key("prompt", rows, training, "slice", after or "first")
                cost = cost_of(self._setting.pool, rows, training)
                parts.append(Part(key, rows, cost, after=after, region=Interval(shard, number)))
                after = key
        return parts

    def _draw(self, digest: str) -> tuple[int, int]:
        number = int(sha256(b"oubli/sisa/1", digest.encode()), 16)
        return number % self._setting.budget.shards, number // self._setting.budget.shards % self._setting.budget.slices

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """From where the slice before has ended."""
        assert part.region is not None
        return learners.build_prompt(
            self._setting.backbone,
            replace(self._setting.budget.training, epochs=self._epochs[part.region.hi]),
            part.key,
            self._setting.pool.take(part.rows).members,
            start=self._setting.start,
            before=built[part.after] if part.after is not None else None,
            progress=progress,
        )

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """The mean of what all shards say."""
        last = {part.region.lo: part.key for part in self.parts(survivors) if part.region is not None}
        said = np.zeros((len(queries), len(self._setting.labels)))
        for key in last.values():
            answer = learners.ask_prompt(self._setting.backbone, self._setting.budget.training, built[key], queries)
            said += learners.onto(self._setting.labels, built[key], answer)
        return said / len(last)


def _sisa_epochs(epochs: int, slices: int) -> list[int]:
    """Of each slice: whole numbers, whose cost over growing slices is nearest to `epochs` over all at once."""
    plain = 2 * epochs / (slices + 1)
    shares = [(number + 1) / slices for number in range(slices)]
    chosen = [max(1, int(plain))] * slices
    for number in reversed(range(slices)):
        spent = sum(e * share for e, share in zip(chosen, shares, strict=True))
        if spent + shares[number] <= epochs + 0.5 * shares[number]:
            chosen[number] += 1
    return chosen

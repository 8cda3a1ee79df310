"""Methods with one model a cluster, each trained alone: the paper's, the service's, and clusters by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from models import fusion
from models.descent import Progress
from models.partition import Layout, Partition, Positions, make_partition
from models.spec import PartitionSpec, PromptSpec, TrainingSpec
from service.core.plan import Survivor, plan
from service.evaluation import learners
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import Budget, BuiltModels, Part, Setting, cost_of
from service.evaluation.pool import Pool
from service.evaluation.whole import Ridge


def tree_spec(budget: Budget) -> PartitionSpec:
    return PartitionSpec(kind="tree", cap=budget.cap, min=budget.min)


class Clustered:
    """Each cluster of a partition learns alone: a prompt with its head, or a head alone. The nearest one answers."""

    def __init__(
        self, setting: Setting, partition: PartitionSpec, *, prompts: bool = True, training: TrainingSpec | None = None
    ) -> None:
        """`training` of the prompts, if it is not the budget's."""
        self._setting = setting
        self._partition: Partition = make_partition(partition, setting.backbone.prototypes)
        training = training or setting.budget.training
        self._training = training if prompts else replace(training, prompt=PromptSpec(kind="none"))
        self._prompts = prompts
        self._start = setting.start if self._training.prompt.start is not None else None
        self._located = lru_cache(maxsize=2)(self._fit_and_locate)
        self.passes = 2.0 if prompts else 1.0

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """One a cluster: F itself, as the service plans."""
        pool, training = self._setting.pool, self._training
        _, positions = self._located(self._anchors(survivors))
        recorded = [Survivor(pool.digests[i], pool.members[i].label, int(positions[i])) for i in survivors]
        backbone = self._setting.backbone.digest
        parts = []
        for cluster in plan(recorded, partition=self._partition, backbone_digest=backbone, training=training):
            rows = tuple(survivors[i] for i in cluster.members)
            key = cluster.key if self._prompts else self._setting.key("head", rows, training)
            parts.append(Part(key, rows, cost_of(pool, rows, training), region=cluster.region))
        return parts

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """From its members alone."""
        backbone, samples = self._setting.backbone, self._setting.pool.take(part.rows)
        if self._prompts:
            return learners.build_prompt(
                backbone, self._training, part.key, samples.members, start=self._start, progress=progress
            )
        return learners.build_head(backbone, self._training, part.key, samples, progress=progress)

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """Answers of each query's own cluster; of the nearest one for a query in none."""
        parts = self.parts(survivors)
        said = np.zeros((len(queries), len(self._setting.labels)))
        homes = self.homes(survivors, parts, queries)
        for number, part in enumerate(parts):
            mine = np.flatnonzero(homes == number)
            if len(mine):
                said[mine] = self._ask(built[part.key], queries.take(mine.tolist()))
        return said

    def homes(
        self, survivors: Sequence[int], parts: Sequence[Part], queries: Pool
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Index [n] of the part that answers each query."""
        layout, _ = self._located(self._anchors(survivors))
        regions = [part.region for part in parts if part.region is not None]
        positions = layout.locate(queries.embeddings, queries.digests).tolist()
        homes = np.empty(len(queries), dtype=np.int64)
        for row, position in enumerate(positions):
            inside = [i for i, region in enumerate(regions) if region.lo <= position < region.hi]
            homes[row] = inside[0] if inside else layout.nearest(queries.embeddings[row], position, regions)
        return homes

    def _anchors(self, survivors: Sequence[int]) -> tuple[int, ...]:
        """Survivors that the layout depends on; none where it is public."""
        window = survivors[: self._partition.window(len(survivors))]
        return tuple(window[i] for i in self._partition.anchors([self._setting.pool.digests[i] for i in window]))

    def _fit_and_locate(self, anchors: tuple[int, ...]) -> tuple[Layout, Positions]:
        """The layout, and the position of every sample of the pool in it, survivor or not.

        Seconds, and most deletions change neither: the last ones are kept.
        """
        pool = self._setting.pool
        layout = self._partition.fit(pool.embeddings[list(anchors)])
        return layout, layout.locate(pool.embeddings, pool.digests)

    def _ask(self, learned: Learned, queries: Pool) -> Probabilities:
        if self._prompts:
            said = learners.ask_prompt(self._setting.backbone, self._training, learned, queries)
        else:
            said = learners.ask_head(self._training, learned, queries)
        return learners.onto(self._setting.labels, learned, said)


class Fused:
    """The tree's prompts, and the closed form beside them: as the service answers.

    training  of the prompts, if it is not the budget's.
    """

    passes = 2.0

    def __init__(self, setting: Setting, training: TrainingSpec | None = None) -> None:
        self._setting = setting
        self.prompts = Clustered(setting, tree_spec(setting.budget), training=training)
        self._ridge = Ridge(setting)

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """The clusters, then the closed form."""
        return [*self.prompts.parts(survivors), *self._ridge.parts(survivors)]

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """Build a cluster's prompt, or the closed form."""
        return (self._ridge if part.region is None else self.prompts).build(part, built, progress)

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """A weighted mean; a prompt's weight grows with its share of the samples (`models.fusion`)."""
        parts = self.prompts.parts(survivors)
        homes = self.prompts.homes(survivors, parts, queries)
        shares = np.array([fusion.weight(len(part.rows), len(survivors)) for part in parts])[homes][:, None]
        prompts = self.prompts.answer(survivors, built, queries)
        return shares * prompts + (1.0 - shares) * self._ridge.answer(survivors, built, queries)

"""The protocol of a method: it divides survivors into parts, builds a part, and answers from what is built.

So forgetting is the same for all: divide the survivors anew, drop every part whose key is gone, build those whose key
is new. `forgetting` counts what that costs; `trial` compares the result with a method that never saw the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from models.backbone import Backbone
from models.descent import Progress
from models.partition import Interval
from models.spec import (
    FEATURE,
    FEATURE_LR,
    SOLVED_BELOW,
    ClosedFormSpec,
    PromptSpec,
    TrainingSpec,
    prompt_key,
    sha256,
)
from models.training import TrainingExample
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.pool import Pool

BuiltModels = Mapping[str, Learned]  # by key
CHOSEN = ClosedFormSpec(chooses_ridge=True, chooses_temperature=True)


@dataclass(frozen=True)
class Budget:
    """The budget of every method, and how each divides it.

    closed_form          lambda and temperature: chosen by leave-one-out, as the service does.
    cap, min             of the tree's clusters; smaller than the service's, so that on 10,000 images a deletion costs
                         no more than with the paper's clusters, and accuracies can be compared.
    clusters             of `random_part_tuning`; None for as many as the tree has.
    anchors, threshold   of the paper's clustering: private samples, and where average linkage ends (unit vectors).
    shards, slices       of SISA.
    network_lr           of the whole network's weights, where they learn.
    feature_epochs       of feature prompts; None for as many as the service gives them.
    cut                  of feature prompts; None for the default one.
    core                 samples that the core's feature prompt learns from: the first of the pool to come, or others.
    """

    training: TrainingSpec = field(default_factory=TrainingSpec)
    closed_form: ClosedFormSpec = CHOSEN
    cap: int = 250
    min: int = 50
    clusters: int | None = None
    anchors: int = 1000
    threshold: float = 1.05
    shards: int = 10
    slices: int = 3
    network_lr: float = 0.01
    feature_epochs: int | None = None
    cut: int | None = None
    core: int = 1500

    @property
    def features(self) -> TrainingSpec:
        """The training of feature prompts, which have settings of their own."""
        return replace(
            self.training,
            epochs=self.feature_epochs,
            prompt_lr=FEATURE_LR,
            prompt=PromptSpec(FEATURE, 0, cut=self.cut),
            solved_below=SOLVED_BELOW,
        )


@dataclass(frozen=True)
class Part:
    """Something to build from some samples.

    key            of all that it depends on: equal keys, equal bits.
    rows           its samples, as rows of the pool, in order of arrival.
    sample_epochs  what building it costs.
    after          key of the part whose training it goes on from.
    region         of its cluster, where there are clusters.
    """

    key: str
    rows: tuple[int, ...]
    sample_epochs: int
    after: str | None = None
    region: Interval | None = None


class Method(Protocol):
    """The protocol of a method. `passes`: of the backbone, for one answer."""

    passes: float

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """What must be there for these rows of the pool; those that others go on from come first."""
        ...

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """Build it; what it goes on from is in `built`."""
        ...

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """Probabilities [n, labels of the pool]."""
        ...


@dataclass(frozen=True)
class Setting:
    """Backbone, samples and budget of all methods."""

    backbone: Backbone
    pool: Pool
    budget: Budget
    start: Tensor | None = None  # prompt pixels to start from
    core: tuple[TrainingExample, ...] | None = None  # samples that are not in the pool; None: `budget.core` of the pool

    @property
    def labels(self) -> list[str]:
        """Every label of the pool, sorted."""
        return sorted(set(self.pool.labels))

    def key(self, kind: str, rows: Sequence[int], training: TrainingSpec, *more: str) -> str:
        """Of what is built from these samples; a prompt's is the service's own."""
        members = self.pool.member_digests(rows)
        key = prompt_key(backbone_digest=self.backbone.digest, training=training, members=members)
        if kind == "prompt" and not more:
            return key
        return sha256(b"oubli/part/1", *(part.encode() for part in (kind, key, *more)))


def cost_of(pool: Pool, rows: Sequence[int], training: TrainingSpec) -> int:
    """Sample-epochs; one label leaves nothing to learn."""
    return training.epochs_of(len(rows)) * len(rows) if len({pool.members[i].label for i in rows}) > 1 else 0

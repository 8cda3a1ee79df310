"""A test's own books of who survives, and what these books imply: the oracle, computed from nothing."""

from __future__ import annotations

import numpy as np

from models import checkpoint
from models.choice import Choice, choose, constants, digest_of, is_choosable, select
from models.closed_form import Accumulators, accumulate, solve
from models.descriptor import Descriptor
from models.embedding import Embedding
from models.image import Pixels
from models.leave_one_out import LeaveOneOut
from models.quality import QualityReport, Tally
from models.training import TrainingExample, train
from service.core import adapting
from service.core.context import Context
from service.core.plan import PlannedAdapter, PlannedCluster, Survivor, locate, plan, plan_adapter
from service.registry.records import Sample
from service.registry.roles import CORE
from service.serving import quality


class Survivors:
    """Samples that were given and not erased, and what was seen in them when they came."""

    context: Context

    def __init__(self) -> None:
        self.survivors: dict[str, Sample] = {}  # to learn from, in order of arrival
        self.held_out: dict[str, Sample] = {}  # evaluation samples, in order of arrival
        self.vectors: dict[str, Embedding] = {}  # by image digest
        self.descriptors: dict[str, Descriptor] = {}
        self.pixels: dict[str, Pixels] = {}

    def plan(self) -> list[PlannedCluster]:
        """What the survivors imply, by the oracle."""
        survivors = list(self.survivors.values())
        embeddings = np.stack([self.vectors[sample.digest] for sample in survivors]) if survivors else np.empty((0, 0))
        digests, givers = [sample.digest for sample in survivors], [sample.owner for sample in survivors]
        places = locate(digests, givers, embeddings, partition=self.context.partition)
        return plan(
            [Survivor(sample.digest, sample.label, place) for sample, place in zip(survivors, places, strict=True)],
            partition=self.context.partition,
            backbone_digest=self.context.backbone.digest,
            training=self.context.training,
        )

    def planned_adapter(self) -> PlannedAdapter | None:
        """What the core survivors imply, by the oracle."""
        return plan_adapter(
            [Survivor(one.digest, one.label, 0, is_core=one.role == CORE) for one in self.survivors.values()],
            backbone_digest=self.context.backbone.digest,
            adapting=self.context.adapting,
        )

    def accumulators(self, first: int | None = None) -> Accumulators:
        """Of the survivors, or of those that came first; from what was seen in them when they came."""
        chosen = list(self.survivors.values())[:first]
        descriptors = [self.descriptors[sample.digest] for sample in chosen]
        chunks = [(np.stack(descriptors), [sample.label for sample in chosen])] if chosen else []
        backbone = self.context.backbone
        return accumulate(backbone.descriptor_width, chunks, kind=backbone.kind.name)

    def choice(self, first: int | None = None) -> Choice:
        """Lambda and temperature that the survivors imply, or those that came first; chosen from nothing."""
        state = self.accumulators(first)
        if not is_choosable(state.counts, self.context.closed_form):
            return constants(self.context.closed_form)
        chosen = select(list(self.survivors.values())[:first], state.counts)
        rows, labels = np.stack([self.descriptors[one.digest] for one in chosen]), [one.label for one in chosen]
        return choose(state, rows, labels, spec=self.context.closed_form)

    def adapted_digest(self) -> str | None:
        """Of the tier of adapted descriptors that the survivors imply: trained and described from nothing."""
        wanted, learned = self.planned_adapter(), list(self.survivors.values())
        if wanted is None:
            return None
        examples = [TrainingExample(self.pixels[learned[i].digest], learned[i].label) for i in wanted.members]
        adapter = train(self.context.backbone, self.context.adapting, key=wanted.key, members=examples)
        rows = adapting.describe(self.context, adapter.values, [self.pixels[one.digest] for one in learned])
        kind = f"adapted/1 {checkpoint.tensor_digest(adapter)}"
        return accumulate(rows.shape[1], [(rows, [one.label for one in learned])], kind=kind).digest()

    def closed_form_digest(self, first: int | None = None) -> str:
        """Of the closed-form tier at rest that the survivors imply, or those that came first."""
        return digest_of(self.accumulators(first).digest(), self.choice(first))

    def quality_report(self, first: int | None = None) -> QualityReport:
        """Of the survivors, or of those that came first, computed from nothing; at least two."""
        choice = self.choice(first)
        head = LeaveOneOut(self.accumulators(first), ridge=choice.ridge, temperature=choice.temperature)
        tally = Tally(head.labels)
        chosen = sorted(list(self.survivors.values())[:first], key=lambda sample: (sample.digest, sample.label))
        for start in range(0, len(chosen), quality.CHUNK):
            chunk = chosen[start : start + quality.CHUNK]
            labels, rows = [one.label for one in chunk], [self.descriptors[one.digest] for one in chunk]
            tally.add(labels, head.scores(np.stack(rows), labels))
        return tally.report()

    def held_out_report(self, first: int | None = None) -> QualityReport:
        """Of the evaluation samples whose pictures nothing was learned from, asked of the head that `solve` gives."""
        choice = self.choice(first)
        head = solve(self.accumulators(first), ridge=choice.ridge)
        learned = {sample.digest for sample in list(self.survivors.values())[:first]}
        counted = [sample for sample in self.held_out.values() if sample.digest not in learned]
        counted.sort(key=lambda sample: (sample.digest, sample.label))
        labels = sorted({*head.labels, *(sample.label for sample in counted)})
        tally = Tally(labels)
        for start in range(0, len(counted), quality.CHUNK):
            chunk = counted[start : start + quality.CHUNK]
            found = head.scores(np.stack([self.descriptors[one.digest] for one in chunk]), choice.temperature)
            known = dict(zip(head.labels, found.T, strict=True))
            columns = [known.get(label, np.zeros(len(chunk))) for label in labels]
            tally.add([one.label for one in chunk], np.stack(columns, axis=1))
        return tally.report()

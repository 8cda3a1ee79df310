"""Computing a batch: describe each image, find its cluster, ask that cluster's prompt, fuse with the closed-form head.

A batch mixes images to be classified with new samples to be described. Several batches are computed at once, each on a
thread of its own. The serving epoch and the number of removed samples are read before a batch starts and again before
it is answered, one row in one statement each time. An answer that used a prompt withdrawn in between, or a closed-form
head that still knows a removed sample, is computed again. The registry is asked, never a cache or a message, so this
holds for any number of replicas.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from models import bank, fusion
from models.embedding import (
    SHAPES,
    DegenerateEmbedding,
    Described,
    Embedding,
    Keep,
    check,
    describe,
    describe_activations,
)
from service.core import layouts
from service.core.context import Context
from service.errors import Invalid, ServiceError, Unavailable
from service.registry import state
from service.registry.records import Marks
from service.serving.adapted import Adapted, AdaptedTier
from service.serving.closed_form import ClosedFormTier, Solved
from service.serving.jobs import Answer, Description, Job, Outcome, Query
from service.serving.snapshot import Snapshot, take_snapshot
from service.serving.votes import Moment, Round, Said, Vote, fuse

ROUNDS = 10  # withdrawals during one batch before it is given up


class _Asked(NamedTuple):
    """A query as prompts and partitions see it: what the bank is asked about, the image's digest, and the activations
    of its views at the cut, if they are known."""

    shown: Tensor
    digest: str
    views: tuple[Tensor, ...] = ()


def _views(keep: Keep | None, place: int) -> tuple[Tensor, ...]:
    """The activations of an image, and of its mirror image, as the adapter is to see them."""
    return tuple(kept[place] for kept in (keep.activations, keep.mirrored) if kept) if keep is not None else ()


class Engine:
    """Answers batches, on as many threads as call it."""

    def __init__(
        self, context: Context, closed_form: ClosedFormTier | None = None, adapted: AdaptedTier | None = None
    ) -> None:
        self._context = context
        self._closed_form = closed_form
        self._adapted = adapted
        self._snapshot: Snapshot | None = None
        self._refreshing = threading.Lock()

    @property
    def epoch(self) -> int:
        """The serving epoch of this replica's snapshot; -1 before the first one."""
        return self._snapshot.epoch if self._snapshot is not None else -1

    def warm_up(self, shapes: Iterable[int] = SHAPES) -> None:
        """Run both passes once in each of these shapes, so that no caller waits for that.

        shapes  of `SHAPES`, images in a batch. A shape that is left out is warmed by the first batch that has it.
        """
        backbone, training = self._context.backbone, self._context.training
        size = backbone.input_size
        for count in shapes:
            black = torch.zeros((count, 3, size, size), dtype=torch.uint8)
            describe(backbone, list(black), exact=False, keep=bank.kept_for(training))
            bank.warm_up(backbone, training, count)
        self.refresh()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcome of each job, in order.

        A batch that the device's memory cannot hold is tried once more, in halves and with PyTorch's cache emptied.
        """
        try:
            return self._run(jobs)
        except torch.OutOfMemoryError:
            if len(jobs) == 1:
                raise
        if self._context.backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(jobs) // 2
        return [*self._run(jobs[:half]), *self._run(jobs[half:])]

    def _run(self, jobs: Sequence[Job]) -> list[Outcome]:
        queries = [(place, job) for place, job in enumerate(jobs) if isinstance(job, Query)]
        exact = len(queries) < len(jobs)  # a new sample's description is recorded
        keep = self._kept() if queries else None
        described = describe(self._context.backbone, [job.image for job in jobs], exact=exact, keep=keep)
        images = [job.image for job in jobs]
        is_shown_activations = keep is not None and bank.kept_for(self._context.training) is not None
        shown = keep.activations if keep is not None and is_shown_activations else images
        outcomes: list[Outcome] = [Description(*of) for of in zip(*described, strict=True)]
        if queries:
            places = [place for place, _ in queries]
            theirs = Described(described.embeddings[places], described.descriptors[places])
            asked = [_Asked(shown[place], query.digest, _views(keep, place)) for place, query in queries]
            for place, answer in zip(places, self._answer(asked, theirs), strict=True):
                outcomes[place] = answer
        return outcomes

    def _kept(self) -> Keep | None:
        """What describing queries is to keep: activations at the one cut of feature prompts and of the adapter."""
        if self._adapted is not None and self._adapted.is_ready:
            return Keep(self._context.adapting.prompt.cut)
        return bank.kept_for(self._context.training)

    # ------------------------------------------------------------------------------------------------- answering

    def _answer(self, queries: Sequence[_Asked], described: Described) -> Sequence[Answer | ServiceError]:
        """Answers that are valid at a moment after they were computed: votes of earlier rounds are checked as well."""
        last: Round | None = None
        for _ in range(ROUNDS):
            now = self._now()
            if last is not None and last.is_valid(now):
                return last.answers
            votes = last.valid_votes(now) if last is not None else [None] * len(queries)
            last = self._round(now, queries, described, votes)
        gone = Unavailable("Samples are being withdrawn faster than can be answered without them.")
        return [gone] * len(queries)

    def _now(self) -> Moment:
        with self._context.registry.read_one() as session:
            fence = state.fence(session)
        snapshot, solved = self.refresh(fence.epoch), self._solved(fence.marks)
        return Moment(snapshot, solved, self._adapted_at(snapshot, solved, fence.marks))

    def _adapted_at(self, snapshot: Snapshot, solved: Solved | None, now: Marks) -> Adapted | None:
        """The adapted tier, if it can answer: with the adapter in force, and half of the samples or more."""
        if self._adapted is None or solved is None:
            return None
        found = self._adapted.current(snapshot.adapter, now.removals)
        return found if found is not None and 2 * found.samples >= solved.samples else None

    def refresh(self, epoch: int | None = None) -> Snapshot:
        """The snapshot of what is served now; prompts that are not are dropped from memory."""
        with self._refreshing:
            self._snapshot = take_snapshot(self._context, self._snapshot, epoch=epoch)
            return self._snapshot

    def _solved(self, now: Marks) -> Solved | None:
        """The closed-form tier, if it can answer."""
        solved = self._closed_form.current(now) if self._closed_form is not None else None
        return solved if solved is not None and solved.head is not None else None

    def _round(
        self, now: Moment, queries: Sequence[_Asked], described: Described, known: Sequence[Vote | ServiceError | None]
    ) -> Round:
        """Compute the votes that are missing, in one forward pass for all prompts that are asked, and the answers."""
        missing = [place for place, vote in enumerate(known) if vote is None]
        routed = iter(self._route(now, [queries[place] for place in missing], described.embeddings[missing]))
        votes = [vote if vote is not None else next(routed) for vote in known]
        asked = [(p, v, v.row) for p, v in enumerate(votes) if isinstance(v, Vote) and v.row and not v.is_computed]
        if asked:
            shown = torch.stack([queries[place].shown for place, _, _ in asked])
            rows = torch.tensor([row.index for _, _, row in asked])
            probabilities = now.snapshot.bank.probabilities(self._context.backbone, shown, rows)
            for (place, vote, row), said in zip(asked, probabilities.tolist(), strict=True):
                of_labels = dict(zip(row.labels, said, strict=False))
                votes[place] = replace(vote, is_computed=True, probabilities=of_labels)
        now, beside = self._beside(now, queries)
        return Round(now, votes, fuse(votes, described.descriptors, now.solved, beside=beside))

    def _beside(self, now: Moment, queries: Sequence[_Asked]) -> tuple[Moment, Said | None]:
        """What the adapted tier says of all queries; and the moment, without it where activations were not kept."""
        if now.adapted is None:
            return now, None
        if not all(query.views for query in queries):
            return replace(now, adapted=None), None
        views = list(zip(*(query.views for query in queries), strict=True))
        late = self._context.backbone.cuts.at(self._context.adapting.prompt.cut)
        seen = describe_activations(self._context.backbone, late, now.adapted.values, views)
        head = now.adapted.head
        return now, Said(head.labels, head.scores(seen, self._context.closed_form.temperature))

    # --------------------------------------------------------------------------------------------------- routing

    def _route(self, now: Moment, queries: Sequence[_Asked], embeddings: Embedding) -> list[Vote | ServiceError]:
        """Which prompt is asked about each image, if any."""
        layout = now.snapshot.layout
        if layout is None:
            alone = self._may_answer_alone(now.solved)
            anywhere = Vote(None, degraded=True) if alone else Unavailable(layouts.MOVING)
            return [_flaw(embedding) or anywhere for embedding in embeddings]
        flaws = [_flaw(embedding) for embedding in embeddings]
        fine = [place for place, flaw in enumerate(flaws) if flaw is None]
        digests = [queries[place].digest for place in fine]
        positions = iter(layout.locate(embeddings[fine], digests).tolist() if fine else [])
        return [
            flaw or self._ask(now, embedding, next(positions))
            for flaw, embedding in zip(flaws, embeddings, strict=True)
        ]

    def _may_answer_alone(self, solved: Solved | None) -> bool:
        return solved is not None and self._context.settings.serving.withdrawn == "closed_form"

    def _ask(self, now: Moment, embedding: Embedding, position: int) -> Vote | ServiceError:
        """The image's own cluster; where that serves no prompt, what the setting `serving.withdrawn` says."""
        snapshot, solved = now.snapshot, now.solved
        own = snapshot.covering(position)
        row = snapshot.rows[own] if own is not None else None
        if own is not None and row is not None:
            silent = solved is not None and fusion.weight(row.members, solved.samples) == 0.0
            return Vote(snapshot.clusters[own].id, degraded=False, row=None if silent else row)
        if self._may_answer_alone(solved):
            return Vote(snapshot.clusters[own].id if own is not None else None, degraded=True)
        if self._context.settings.serving.withdrawn == "abstain":
            return Unavailable("The cluster of this image serves no prompt just now; one is being trained.")
        if not snapshot.served or snapshot.layout is None:
            return Unavailable("Nothing is served yet: no prompt has been trained.")
        regions = [snapshot.region(index) for index in snapshot.served]
        nearest = snapshot.served[snapshot.layout.nearest(embedding, position, regions)]
        return Vote(snapshot.clusters[nearest].id, degraded=True, row=snapshot.rows[nearest])


def _flaw(embedding: Embedding) -> Invalid | None:
    """Why this image has no place in any layout."""
    try:
        check(embedding)
    except DegenerateEmbedding as error:
        return Invalid(str(error))
    return None

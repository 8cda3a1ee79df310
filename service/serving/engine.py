"""Answering a batch: describe, find each image's cluster, add its prompt, one forward pass, its head; hear everybody's.

A batch mixes images to be classified and newcomers to be described. Several batches are computed at once, each on a
thread of its own. The serving epoch and the number of removed samples are read before a batch starts and again before
it is answered, one row in one statement each time: what used a prompt that was withdrawn in between, or a closed-form
head that knows somebody who has gone, is computed again (DESIGN.md, "Serving"). The registry is asked, never a cache or
a message, so this holds for any number of replicas.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from models import fusion
from models.bank import Row
from models.embedding import SHAPES, DegenerateEmbedding, Described, Descriptor, Embedding, check, describe
from service.core import layouts
from service.core.context import Context
from service.errors import Invalid, ServiceError, Unavailable
from service.registry import state
from service.registry.records import Marks
from service.serving.closed_form import ClosedFormTier, Solved
from service.serving.jobs import Answer, Description, Job, Outcome, Query
from service.serving.snapshot import Snapshot, take_snapshot

ROUNDS = 10  # withdrawals during one batch before it is given up


@dataclass(frozen=True)
class _Vote:
    """What a prompt says of an image, or (`row` None) that none is asked."""

    cluster: str | None
    degraded: bool
    row: Row | None = None
    heard: bool = False
    probabilities: Mapping[str, float] = field(default_factory=dict)


class Engine:
    """Answers batches, on as many threads as call it."""

    def __init__(self, context: Context, closed_form: ClosedFormTier | None = None) -> None:
        self._context = context
        self._closed_form = closed_form
        self._snapshot: Snapshot | None = None
        self._refreshing = threading.Lock()

    @property
    def epoch(self) -> int:
        """The serving epoch that is known here; -1 before the first snapshot."""
        return self._snapshot.epoch if self._snapshot is not None else -1

    def warm_up(self, shapes: Iterable[int] = SHAPES) -> None:
        """Run both passes once in each of these shapes, so that no caller waits for that.

        shapes  of `SHAPES`, images in a batch. A shape that is left out is warmed by the first batch that has it.
        """
        backbone = self._context.backbone
        size = backbone.input_size
        for count in shapes:
            black = torch.zeros((count, 3, size, size), dtype=torch.uint8)
            describe(backbone, list(black), exact=False)
            backbone.inference(backbone.preprocessing.normalise(black.to(backbone.device)))
        self.refresh()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What comes of each job, in order.

        What the device's memory cannot hold is tried once more, in halves and with PyTorch's cache emptied.
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
        exact = len(queries) < len(jobs)  # somebody's description is recorded
        described = describe(self._context.backbone, [job.image for job in jobs], exact=exact)
        outcomes: list[Outcome] = [Description(*of) for of in zip(*described, strict=True)]
        if queries:
            places = [place for place, _ in queries]
            theirs = Described(described.embeddings[places], described.descriptors[places])
            for place, answer in zip(places, self._answer([query for _, query in queries], theirs), strict=True):
                outcomes[place] = answer
        return outcomes

    def _answer(self, queries: Sequence[Query], described: Described) -> list[Answer | ServiceError]:
        votes: list[_Vote | ServiceError | None] = [None] * len(queries)
        answers: list[Answer | ServiceError] | None = None
        routed_by, has_closed_form, removals = None, False, -1
        for _ in range(ROUNDS):
            with self._context.registry.glance() as session:
                fence = state.fence(session)
            snapshot, solved = self.refresh(fence.epoch), self._solved(fence.marks)
            # Votes of all earlier rounds: they have waited for the others.
            rerouted = snapshot.layout is not routed_by or (solved is not None) != has_closed_form
            votes = [None if rerouted or _is_withdrawn(vote, snapshot) else vote for vote in votes]
            routed_by, has_closed_form = snapshot.layout, solved is not None
            known, removals = removals, solved.marks.removals if solved is not None else -1
            if answers is not None and None not in votes and known == removals:
                return answers
            self._vote(snapshot, queries, described.embeddings, votes, solved)
            answers = self._fuse(votes, described.descriptors, solved)
        gone = Unavailable("Samples are being withdrawn faster than can be answered without them.")
        return [gone] * len(queries)

    def refresh(self, epoch: int | None = None) -> Snapshot:
        """What is served now; prompts that are not are dropped."""
        with self._refreshing:
            self._snapshot = take_snapshot(self._context, self._snapshot, epoch=epoch)
            return self._snapshot

    def _solved(self, now: Marks) -> Solved | None:
        """The closed-form tier, if it can answer."""
        solved = self._closed_form.current(now) if self._closed_form is not None else None
        return solved if solved is not None and solved.head is not None else None

    def _vote(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        embeddings: Embedding,
        votes: list[_Vote | ServiceError | None],
        solved: Solved | None,
    ) -> None:
        """Fill the open places: one forward pass for all prompts that are asked."""
        places = [place for place, vote in enumerate(votes) if vote is None]
        routed = self._route(snapshot, [queries[place] for place in places], embeddings[places], solved)
        for place, vote in zip(places, routed, strict=True):
            votes[place] = vote
        asked = [(p, v, v.row) for p, v in enumerate(votes) if isinstance(v, _Vote) and v.row and not v.heard]
        if not asked:
            return
        images = torch.stack([queries[place].image for place, _, _ in asked])
        rows = torch.tensor([row.index for _, _, row in asked])
        probabilities = snapshot.bank.probabilities(self._context.backbone, images, rows)
        for (place, vote, row), said in zip(asked, probabilities.tolist(), strict=True):
            votes[place] = replace(vote, heard=True, probabilities=dict(zip(row.labels, said, strict=False)))

    def _fuse(
        self, votes: Sequence[_Vote | ServiceError | None], descriptors: Descriptor, solved: Solved | None
    ) -> list[Answer | ServiceError]:
        places = [place for place, vote in enumerate(votes) if isinstance(vote, _Vote)]
        heard: dict[int, dict[str, float]] = {}
        if solved is not None and solved.head is not None and places:
            scores = solved.head.scores(descriptors[places], self._context.closed_form.temperature).tolist()
            heard = {
                p: dict(zip(solved.head.labels, said, strict=True)) for p, said in zip(places, scores, strict=True)
            }
        samples = solved.samples if solved is not None else 0
        return [
            _answer(vote, heard.get(place), samples) if isinstance(vote, _Vote) else _settled(vote)
            for place, vote in enumerate(votes)
        ]

    def _route(
        self, snapshot: Snapshot, queries: Sequence[Query], embeddings: Embedding, solved: Solved | None
    ) -> list[_Vote | ServiceError]:
        """Which prompt is asked of each image, if any."""
        if snapshot.layout is None:
            alone = self._may_answer_alone(solved)
            anywhere = _Vote(None, degraded=True) if alone else Unavailable(layouts.MOVING)
            return [_flaw(embedding) or anywhere for embedding in embeddings]
        flaws = [_flaw(embedding) for embedding in embeddings]
        fine = [place for place, flaw in enumerate(flaws) if flaw is None]
        digests = [queries[place].digest for place in fine]
        positions = iter(snapshot.layout.locate(embeddings[fine], digests).tolist() if fine else [])
        return [
            flaw or self._ask(snapshot, embedding, next(positions), solved)
            for flaw, embedding in zip(flaws, embeddings, strict=True)
        ]

    def _may_answer_alone(self, solved: Solved | None) -> bool:
        return solved is not None and self._context.settings.serving.withdrawn == "closed_form"

    def _ask(
        self, snapshot: Snapshot, embedding: Embedding, position: int, solved: Solved | None
    ) -> _Vote | ServiceError:
        own = snapshot.covering(position)
        row = snapshot.rows[own] if own is not None else None
        if own is not None and row is not None:
            silent = solved is not None and fusion.weight(row.members, solved.samples) == 0.0
            return _Vote(snapshot.held[own].id, degraded=False, row=None if silent else row)
        if self._may_answer_alone(solved):
            return _Vote(snapshot.held[own].id if own is not None else None, degraded=True)
        if self._context.settings.serving.withdrawn == "abstain":
            return Unavailable("The cluster of this image serves no prompt just now; one is being trained.")
        if not snapshot.served or snapshot.layout is None:
            return Unavailable("Nothing is served yet: no prompt has been trained.")
        regions = [snapshot.region(index) for index in snapshot.served]
        nearest = snapshot.served[snapshot.layout.nearest(embedding, position, regions)]
        return _Vote(snapshot.held[nearest].id, degraded=True, row=snapshot.rows[nearest])


def _flaw(embedding: Embedding) -> Invalid | None:
    """Why this image cannot be located by anything."""
    try:
        check(embedding)
    except DegenerateEmbedding as error:
        return Invalid(str(error))
    return None


def _is_withdrawn(vote: _Vote | ServiceError | None, snapshot: Snapshot) -> bool:
    """By the row itself, not by its key: it may have been dropped, and filled again, while it was being read."""
    return isinstance(vote, _Vote) and vote.row is not None and vote.row not in snapshot.live


def _settled(vote: ServiceError | None) -> ServiceError:
    assert vote is not None  # every place has been filled
    return vote


def _answer(vote: _Vote, heard: Mapping[str, float] | None, samples: int) -> Answer:
    """The prompt's probabilities and the closed form's, as one."""
    if heard is None:
        tier, scores = "prompt", vote.probabilities
    elif vote.row is None:
        tier, scores = "closed_form", heard
    else:
        tier = "fused"
        scores = fusion.fuse(vote.probabilities, heard, share=fusion.weight(vote.row.members, samples))
    ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return Answer(tuple(ranked), vote.cluster, vote.row.key if vote.row is not None else None, tier, vote.degraded)

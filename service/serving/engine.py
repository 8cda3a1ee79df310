"""Answering a batch: describe, find each image's cluster, add its prompt, one forward pass, its head; hear everybody's.

Runs on one thread that owns the device. The serving epoch and the number of removed samples are read before a batch
starts and again before it is answered, one row in one statement each time: what used a prompt that was withdrawn in
between, or a closed-form head that knows somebody who has gone, is computed again (DESIGN.md, "Serving"). The registry
is asked, never a cache or a message, so this holds for any number of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models import fusion
from models.embedding import DegenerateEmbedding, Descriptor, Embedding, check, describe
from service.core import layouts
from service.core.context import Context
from service.errors import Invalid, ServiceError, Unavailable
from service.registry import state
from service.registry.records import Marks
from service.serving.closed_form import ClosedFormTier, Solved
from service.serving.snapshot import Snapshot, take_snapshot

ROUNDS = 10  # withdrawals during one batch before it is given up


@dataclass(frozen=True)
class Query:
    """An image to be classified: resized uint8 [3, s, s], and its digest, which some partitions route by."""

    image: Tensor
    digest: str


@dataclass(frozen=True)
class Answer:
    """Labels with their probabilities, best first, and where they come from.

    tier      "prompt", "closed_form", or "fused" of both.
    cluster   of the prompt; without one, the image's own, if it has any.
    degraded  the image's own cluster serves no prompt.
    """

    scores: tuple[tuple[str, float], ...]
    cluster: str | None
    prompt: str | None
    tier: str
    degraded: bool


@dataclass(frozen=True)
class _Vote:
    """What a prompt says of an image, or (`row` None) that none is asked."""

    cluster: str | None
    degraded: bool
    row: int | None = None
    key: str | None = None
    members: int = 0
    probabilities: Mapping[str, float] = field(default_factory=dict)


class Engine:
    """The device's only user in this process. Not thread-safe, on purpose; `closed_form` is."""

    def __init__(self, context: Context, closed_form: ClosedFormTier | None = None) -> None:
        self._context = context
        self._closed_form = closed_form
        self._snapshot: Snapshot | None = None

    @property
    def epoch(self) -> int:
        """The serving epoch that is known here; -1 before the first snapshot."""
        return self._snapshot.epoch if self._snapshot is not None else -1

    def warm_up(self) -> None:
        """Run both passes once, so that the first caller does not wait for them."""
        size = self._context.backbone.input_size
        describe(self._context.backbone, [torch.zeros((3, size, size), dtype=torch.uint8)])
        self.refresh()

    def describe(self, images: Sequence[Tensor]) -> list[tuple[Embedding, Descriptor]]:
        """(embedding [dim], descriptor [width]) of each resized image."""
        return list(zip(*describe(self._context.backbone, images), strict=True))

    def predict(self, queries: Sequence[Query]) -> list[Answer | ServiceError]:
        """An answer, or why there is none, for each query."""
        described = describe(self._context.backbone, [query.image for query in queries])
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
        for place, vote in enumerate(votes):
            if vote is None:
                votes[place] = self._route(snapshot, queries[place], embeddings[place], solved)
        asked = [(p, v) for p, v in enumerate(votes) if isinstance(v, _Vote) and v.row is not None and v.key is None]
        if not asked:
            return
        images = torch.stack([queries[place].image for place, _ in asked])
        rows = torch.tensor([vote.row for _, vote in asked])
        probabilities = snapshot.bank.probabilities(self._context.backbone, images, rows)
        for (place, vote), row, said in zip(asked, rows.tolist(), probabilities.tolist(), strict=True):
            votes[place] = replace(
                vote,
                key=snapshot.bank.keys[row],
                members=snapshot.members[row],
                probabilities=dict(zip(snapshot.bank.labels[row], said, strict=False)),
            )

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
        self, snapshot: Snapshot, query: Query, embedding: Embedding, solved: Solved | None
    ) -> _Vote | ServiceError:
        """Which prompt is asked, if any."""
        try:
            check(embedding)
        except DegenerateEmbedding as error:
            return Invalid(str(error))
        policy = self._context.settings.serving.withdrawn
        alone = solved is not None and policy == "closed_form"
        if snapshot.layout is None:
            return _Vote(None, degraded=True) if alone else Unavailable(layouts.MOVING)
        (position,) = snapshot.layout.locate(embedding[None], [query.digest])
        own = snapshot.covering(int(position))
        row = snapshot.rows[own] if own is not None else None
        if own is not None and row is not None:
            silent = solved is not None and fusion.weight(snapshot.members[row], solved.samples) == 0.0
            return _Vote(snapshot.held[own].id, degraded=False, row=None if silent else row)
        if alone:
            return _Vote(snapshot.held[own].id if own is not None else None, degraded=True)
        if policy == "abstain":
            return Unavailable("The cluster of this image serves no prompt just now; one is being trained.")
        if not snapshot.served:
            return Unavailable("Nothing is served yet: no prompt has been trained.")
        regions = [snapshot.region(index) for index in snapshot.served]
        nearest = snapshot.served[snapshot.layout.nearest(embedding, int(position), regions)]
        return _Vote(snapshot.held[nearest].id, degraded=True, row=snapshot.rows[nearest])


def _is_withdrawn(vote: _Vote | ServiceError | None, snapshot: Snapshot) -> bool:
    return isinstance(vote, _Vote) and vote.key is not None and vote.key not in snapshot.bank.keys


def _settled(vote: ServiceError | None) -> ServiceError:
    assert vote is not None  # every place has been filled
    return vote


def _answer(vote: _Vote, heard: Mapping[str, float] | None, samples: int) -> Answer:
    """The prompt's probabilities and the closed form's, as one."""
    if heard is None:
        tier, scores = "prompt", vote.probabilities
    elif vote.key is None:
        tier, scores = "closed_form", heard
    else:
        tier = "fused"
        scores = fusion.fuse(vote.probabilities, heard, share=fusion.weight(vote.members, samples))
    ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return Answer(tuple(ranked), vote.cluster, vote.key, tier, vote.degraded)

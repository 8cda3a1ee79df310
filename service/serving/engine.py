"""Answering a batch: embed, find each image's cluster, add its prompt, one forward pass, its head.

Runs on one thread that owns the device. The serving epoch is checked before a batch starts and again before it is
answered: what used a prompt that was withdrawn in between is computed again (DESIGN.md, "Serving").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.embedding import DegenerateEmbedding, Embedding, check, embed
from service.core import layouts
from service.core.context import Context
from service.errors import Invalid, ServiceError, Unavailable
from service.serving.snapshot import Snapshot, take_snapshot

ROUNDS = 10  # withdrawals during one batch before it is given up


@dataclass(frozen=True)
class Query:
    """An image to be classified: resized uint8 [3, s, s], and its digest, which some partitions route by."""

    image: Tensor
    digest: str


@dataclass(frozen=True)
class Answer:
    """Labels with their probabilities, best first, and where they come from."""

    scores: tuple[tuple[str, float], ...]
    cluster: str
    prompt: str
    tier: str
    degraded: bool


@dataclass(frozen=True)
class _Route:
    """Which cluster answers, and whether it is another than the image's own."""

    index: int
    degraded: bool


class Engine:
    """The device's only user in this process. Not thread-safe, on purpose."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._snapshot: Snapshot | None = None

    def warm_up(self) -> None:
        """Run both passes once, so that the first caller does not wait for them."""
        size = self._context.backbone.input_size
        embed(self._context.backbone, [torch.zeros((3, size, size), dtype=torch.uint8)])
        self.refresh()

    def embed(self, images: Sequence[Tensor]) -> list[Embedding]:
        """One embedding [dim] for each resized image."""
        return list(embed(self._context.backbone, images))

    def predict(self, queries: Sequence[Query]) -> list[Answer | ServiceError]:
        """An answer, or why there is none, for each query."""
        embeddings = embed(self._context.backbone, [query.image for query in queries])
        answers: list[Answer | ServiceError | None] = [None] * len(queries)
        for _ in range(ROUNDS):
            snapshot = self.refresh()
            open_places = [place for place, answer in enumerate(answers) if answer is None]
            if not open_places:
                return [answer for answer in answers if answer is not None]
            self._answer(snapshot, queries, embeddings, open_places, answers)
            now = self.refresh()
            for place, answer in enumerate(answers):  # those of earlier rounds too: they have waited for the others
                withdrawn = isinstance(answer, Answer) and answer.prompt not in now.bank.keys
                if withdrawn or now.layout is not snapshot.layout:
                    answers[place] = None
        gone = Unavailable("Prompts are being withdrawn faster than they can be used.")
        return [answer if answer is not None else gone for answer in answers]

    def refresh(self) -> Snapshot:
        """What is served now; prompts that are not are dropped."""
        self._snapshot = take_snapshot(self._context, self._snapshot)
        return self._snapshot

    def _answer(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        embeddings: Embedding,
        places: Sequence[int],
        answers: list[Answer | ServiceError | None],
    ) -> None:
        routes: dict[int, _Route] = {}
        for place in places:
            route = self._route(snapshot, queries[place], embeddings[place])
            if isinstance(route, _Route):
                routes[place] = route
            else:
                answers[place] = route
        if not routes:
            return
        images = torch.stack([queries[place].image for place in routes])
        rows = torch.tensor([snapshot.rows[route.index] for route in routes.values()])
        probabilities = snapshot.bank.probabilities(self._context.backbone, images, rows)
        for place, row, scores in zip(routes, rows.tolist(), probabilities.tolist(), strict=True):
            route = routes[place]
            labels = snapshot.bank.labels[row]
            ranked = sorted(zip(labels, scores, strict=False), key=lambda pair: (-pair[1], pair[0]))
            cluster = snapshot.held[route.index].id
            answers[place] = Answer(tuple(ranked), cluster, snapshot.bank.keys[row], "prompt", route.degraded)

    def _route(self, snapshot: Snapshot, query: Query, embedding: Embedding) -> _Route | ServiceError:
        try:
            check(embedding)
        except DegenerateEmbedding as error:
            return Invalid(str(error))
        if snapshot.layout is None:
            return Unavailable(layouts.MOVING)
        (position,) = snapshot.layout.locate(embedding[None], [query.digest])
        own = snapshot.covering(int(position))
        if own is not None and snapshot.rows[own] is not None:
            return _Route(own, degraded=False)
        if not snapshot.served:
            return Unavailable("Nothing is served yet: no prompt has been trained.")
        if self._context.settings.serving.withdrawn == "abstain":
            return Unavailable("The cluster of this image serves no prompt just now; one is being trained.")
        regions = [snapshot.region(index) for index in snapshot.served]
        nearest = snapshot.layout.nearest(embedding, int(position), regions)
        return _Route(snapshot.served[nearest], degraded=True)

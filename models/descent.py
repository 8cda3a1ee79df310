"""Stochastic gradient descent that is a pure function of a key: its order, its augmentation and its schedule.

All are drawn from the prompt's key, never from global state, a clock or the rest of the data set. SGD with momentum;
linear warm-up, then half a cosine to zero (Loshchilov and Hutter, arXiv 1608.03983). No early stopping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.determinism import generator
from models.spec import TrainingSpec

Progress = Callable[[int, int], None]  # called after every batch with (done, steps); may raise to stop the training


class Batch(NamedTuple):
    """A batch: members by row int64 [b], whether each is mirrored bool [b], weights float32 [b], and a seed's name."""

    rows: Tensor
    mirrored: Tensor
    weights: Tensor
    name: tuple[str, ...]

    def loss(self, scores: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of scores [b, labels] against targets [b]; repetitions do not count."""
        weights = self.weights.to(scores.device)
        losses = functional.cross_entropy(scores, targets, reduction="none", label_smoothing=label_smoothing)
        return (losses * weights).sum() / weights.sum()


class Order:
    """The batches of each epoch over `count` members, and the learning rate at each step."""

    def __init__(self, spec: TrainingSpec, key: str, count: int) -> None:
        self._spec = spec
        self._key = key
        self.count = count
        self.batches_per_epoch = math.ceil(count / spec.batch_size)
        self.epochs = spec.epochs_of(count)
        self.steps = self.epochs * self.batches_per_epoch

    def learning_rate_factor(self, step: int) -> float:
        """The factor of the learning rate at a step: linear warm-up, then half a cosine to zero."""
        warmup = max(1, round(self._spec.warmup * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        rest = max(1, self.steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / rest)))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch: every member once, in an order drawn from the key and the epoch.

        All batches have the same size, because bits depend on it: the last one is filled up with repetitions of weight
        zero.
        """
        count, size = self.count, self._spec.batch_size
        random = generator("oubli/epoch/1", self._key, str(epoch))
        order = torch.randperm(count, generator=random)
        mirrored = torch.rand(count, generator=random) < (0.5 if self._spec.flip else 0.0)
        padding = -count % size
        order = torch.cat([order, order[:1].expand(padding)])
        weights = torch.cat([torch.ones(count), torch.zeros(padding)])
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield Batch(rows, mirrored[rows], weights[start : start + size], (self._key, str(epoch), str(start)))

    def as_they_come(self) -> Iterator[Batch]:
        """Every member once, in order and not mirrored, in batches of the same size."""
        size = self._spec.batch_size
        rows = torch.arange(self.count + -self.count % size) % self.count
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            yield Batch(chunk, torch.zeros(size, dtype=torch.bool), torch.ones(size), (self._key, "as they come"))


def descend(
    spec: TrainingSpec,
    order: Order,
    parameters: Sequence[dict[str, Any]],
    loss: Callable[[Batch], Tensor],
    progress: Progress = lambda done, steps: None,
) -> None:
    """Train: one step of SGD for every batch of every epoch.

    parameters  groups as `torch.optim.SGD` takes them, each with its peak learning rate `lr`.
    """
    optimizer = torch.optim.SGD(parameters, momentum=spec.momentum)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, order.learning_rate_factor)
    for epoch in range(order.epochs):
        for number, batch in enumerate(order.batches(epoch), start=1):
            optimizer.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(epoch * order.batches_per_epoch + number, order.steps)

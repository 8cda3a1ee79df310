"""Training one cluster's prompt and head: a pure function of backbone, spec, key and members.

Follows LMEraser (arXiv 2404.11056): the backbone is frozen, in eval mode; only the prompt and the head learn. Unlike
the authors' code, each cluster is trained alone, with its own order, augmentation and schedule, all drawn from its
key: nothing of another cluster, of a clock or of an earlier training can reach it. No early stopping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models import head
from models.backbone import Backbone
from models.determinism import generator
from models.image import Pixels
from models.prompt import covered_pixels, expand
from models.spec import TrainingSpec

Progress = Callable[[int, int], None]  # told, after every batch, how many of how many are done; may raise to stop


@dataclass(frozen=True)
class Member:
    """One sample of a cluster: RGB pixels uint8 [height, width, 3] and its label."""

    pixels: Pixels
    label: str


@dataclass(frozen=True)
class TrainedPrompt:
    """What training leaves behind: the learned tensors, on the CPU, and what they cost.

    values  prompt pixels float32 [3, m], see `models.prompt`.
    weight  head float32 [labels, dim]; row i belongs to labels[i].
    bias    float32 [labels].
    """

    labels: tuple[str, ...]
    values: Tensor
    weight: Tensor
    bias: Tensor
    members: int
    sample_epochs: int

    @property
    def is_finite(self) -> bool:
        """False if training diverged."""
        return all(bool(tensor.isfinite().all()) for tensor in (self.values, self.weight, self.bias))


def train(
    backbone: Backbone,
    spec: TrainingSpec,
    *,
    key: str,
    members: Sequence[Member],
    progress: Progress = lambda done, steps: None,
) -> TrainedPrompt:
    """Train from zero on `members`, in arrival order. Bit-identical in one environment.

    Whatever `progress` raises ends the training.
    """
    if not members:
        raise ValueError("A cluster without members has no prompt.")
    labels = tuple(sorted({member.label for member in members}))
    covered = covered_pixels(spec.prompt, backbone.input_size).to(backbone.device)
    values = torch.zeros((3, len(covered)), device=backbone.device, requires_grad=True)
    weight = torch.zeros((len(labels), backbone.dim), device=backbone.device, requires_grad=True)
    bias = torch.zeros(len(labels), device=backbone.device, requires_grad=True)
    epochs = spec.epochs if len(labels) > 1 else 0  # one label leaves nothing to learn
    if epochs:
        data = _Data(backbone, spec, key, members, labels)

        def loss(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            prompted = images + expand(values, covered, backbone.input_size)
            scores = head.logits(backbone.features_folded(prompted), weight, bias, spec.scale)
            losses = functional.cross_entropy(scores, targets, reduction="none")
            return (losses * weights).sum() / weights.sum()

        _descend(spec, data, values, [weight, bias], loss, progress)
    return TrainedPrompt(
        labels=labels,
        values=values.detach().cpu(),
        weight=weight.detach().cpu(),
        bias=bias.detach().cpu(),
        members=len(members),
        sample_epochs=epochs * len(members),
    )


def _descend(
    spec: TrainingSpec,
    data: _Data,
    values: Tensor,
    head_parameters: Sequence[Tensor],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    progress: Progress,
) -> None:
    """Stochastic gradient descent, through every batch of every epoch."""
    optimizer = torch.optim.SGD(
        [
            {"params": [values], "lr": spec.prompt_lr},
            {"params": list(head_parameters), "lr": spec.head_lr},
        ],
        momentum=spec.momentum,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, data.learning_rate_factor)
    steps = spec.epochs * data.batches_per_epoch
    for epoch in range(spec.epochs):
        for batch, (images, targets, weights) in enumerate(data.batches(epoch), start=1):
            optimizer.zero_grad()
            loss(images, targets, weights).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(epoch * data.batches_per_epoch + batch, steps)


class _Data:
    """Members as resized uint8 images, and the batches of each epoch."""

    def __init__(
        self,
        backbone: Backbone,
        spec: TrainingSpec,
        key: str,
        members: Sequence[Member],
        labels: Sequence[str],
    ) -> None:
        self._backbone = backbone
        self._spec = spec
        self._key = key
        self._images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
        index = {label: row for row, label in enumerate(labels)}
        self._targets = torch.tensor([index[member.label] for member in members])
        self.batches_per_epoch = math.ceil(len(members) / spec.batch_size)
        self._steps = spec.epochs * self.batches_per_epoch

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero; the schedule knows this cluster only."""
        warmup = max(1, round(self._spec.warmup * self._steps))
        if step < warmup:
            return (step + 1) / warmup
        rest = max(1, self._steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / rest)))

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(images [b, 3, s, s], targets [b], weights [b]) in an order drawn from the key and the epoch.

        Every batch has the same shape b, because bits depend on it: the last one is filled up with repetitions
        of weight zero.
        """
        count, size = len(self._images), self._spec.batch_size
        random = generator("oubli/epoch/1", self._key, str(epoch))
        order = torch.randperm(count, generator=random)
        mirrored = torch.rand(count, generator=random) < (0.5 if self._spec.flip else 0.0)
        padding = -count % size
        order = torch.cat([order, order[:1].expand(padding)])
        weights = torch.cat([torch.ones(count), torch.zeros(padding)])
        device = self._backbone.device
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            images = self._images[rows]
            flips = mirrored[rows].view(-1, 1, 1, 1)
            images = torch.where(flips, images.flip(3), images).to(device)
            normalised = self._backbone.preprocessing.normalise(images)
            yield normalised, self._targets[rows].to(device), weights[start : start + size].to(device)

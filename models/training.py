"""Training one cluster's prompt and head: a pure function of backbone, spec, key and members.

Follows LMEraser (arXiv 2404.11056): the backbone is frozen, in eval mode; only the prompt and the head learn. Unlike
the authors' code, each cluster is trained alone, with its own order, augmentation and schedule, all drawn from its
key: nothing of another cluster, of a clock or of an earlier training can reach it. No early stopping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models import head
from models.backbone import Backbone
from models.determinism import generator
from models.image import Pixels
from models.prompt import covered_pixels, expand, trained_pixels
from models.spec import PromptSpec, TrainingSpec, sha256

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
    start: Tensor | None = None,
    progress: Progress = lambda done, steps: None,
) -> TrainedPrompt:
    """Train from zero on `members`, in arrival order. Bit-identical in one environment.

    start  prompt pixels [3, m] to start from; exactly where the spec names their digest (`models.meta_prompt`).

    Whatever `progress` raises ends the training.
    """
    if not members:
        raise ValueError("A cluster without members has no prompt.")
    labels = tuple(sorted({member.label for member in members}))
    values = _first_values(spec.prompt, key, start, backbone).requires_grad_(True)
    weight = torch.zeros((len(labels), backbone.dim), device=backbone.device, requires_grad=True)
    bias = torch.zeros(len(labels), device=backbone.device, requires_grad=True)
    epochs = spec.epochs if len(labels) > 1 else 0  # one label leaves nothing to learn
    if epochs:
        data = _Data(backbone, spec, key, members, labels)

        def loss(batch: Batch) -> Tensor:
            prompted = batch.images + expand(values, batch.covered, backbone.input_size)
            scores = head.logits(backbone.features_folded(prompted), weight, bias, spec.scale)
            losses = functional.cross_entropy(scores, batch.targets, reduction="none")
            return (losses * batch.weights).sum() / batch.weights.sum()

        _descend(spec, data, values, [weight, bias], loss, progress)
    return TrainedPrompt(
        labels=labels,
        values=values.detach().cpu(),
        weight=weight.detach().cpu(),
        bias=bias.detach().cpu(),
        members=len(members),
        sample_epochs=epochs * len(members),
    )


def _first_values(spec: PromptSpec, key: str, start: Tensor | None, backbone: Backbone) -> Tensor:
    """Prompt pixels [3, m] before any step. Raises ValueError if `start` is not what the spec names."""
    shape = (3, len(covered_pixels(spec, backbone.input_size)))
    if (digest := values_digest(start) if start is not None else None) != spec.start:
        raise ValueError(f"The prompt is to start from the values {spec.start}, not from {digest}.")
    if start is None and spec.init_std == 0:
        return torch.zeros(shape, device=backbone.device)
    if start is None:
        noise = torch.randn(shape, generator=generator("oubli/prompt/1", key))
        return (noise * spec.init_std).to(backbone.device)
    if tuple(start.shape) != shape:
        raise ValueError(f"A prompt of these settings has {list(shape)} values, not {list(start.shape)}.")
    return start.clone().to(backbone.device)


def values_digest(values: Tensor) -> str:
    """Hex SHA-256 of prompt pixels float32 [3, m]."""
    return sha256(b"oubli/values/1", values.detach().cpu().float().contiguous().numpy().tobytes())


def _descend(
    spec: TrainingSpec,
    data: _Data,
    values: Tensor,
    head_parameters: Sequence[Tensor],
    loss: Callable[[Batch], Tensor],
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
        for number, batch in enumerate(data.batches(epoch), start=1):
            optimizer.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(epoch * data.batches_per_epoch + number, steps)


class Batch(NamedTuple):
    """images float32 [b, 3, s, s], targets int64 [b], weights float32 [b]; the pixels [m] that the prompt covers."""

    images: Tensor
    targets: Tensor
    weights: Tensor
    covered: Tensor


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

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Every member once, in an order drawn from the key and the epoch.

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
            covered = trained_pixels(self._spec.prompt, self._backbone.input_size, self._key, str(epoch), str(start))
            yield Batch(
                normalised, self._targets[rows].to(device), weights[start : start + size].to(device), covered.to(device)
            )

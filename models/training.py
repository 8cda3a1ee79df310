"""Training one cluster's prompt and head: a pure function of backbone, spec, key and members.

Follows LMEraser (arXiv 2404.11056): the backbone is frozen, in eval mode; only the prompt and the head learn. A feature
prompt (SSF; arXiv 2210.08823) learns on activations at its cut, which no step changes. Unlike
the authors' code, each cluster is trained alone, with its own order, augmentation and schedule, all drawn from its
key: nothing of another cluster, of a clock or of an earlier training can reach it. No early stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models import head
from models.activations import MemberActivations
from models.backbone import Backbone
from models.descent import Batch, Order, Progress, descend
from models.determinism import generator
from models.image import Pixels
from models.prompt import expand, trained_pixels, values_shape
from models.spec import FEATURE, PromptSpec, TrainingSpec, sha256


@dataclass(frozen=True)
class TrainingExample:
    """One sample of a cluster: RGB pixels uint8 [height, width, 3] and its label."""

    pixels: Pixels
    label: str


@dataclass(frozen=True)
class TrainedPrompt:
    """The result of a training: the learned tensors, on the CPU, and their cost.

    values  prompt pixels float32 [3, m], see `models.prompt`; of a feature prompt [2, width], see `models.late`.
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
    members: Sequence[TrainingExample],
    start: Tensor | None = None,
    before: TrainedPrompt | None = None,
    progress: Progress = lambda done, steps: None,
) -> TrainedPrompt:
    """Train on `members`, in arrival order. Bit-identical in one environment.

    start   values to start from; exactly where the spec names their digest (`models.meta_prompt`).
    before  a prompt to continue from, with its head: for SISA's slices alone (`service.evaluation`).

    An exception from `progress` ends the training and is passed on.
    """
    if not members:
        raise ValueError("A cluster without members has no prompt.")
    labels = tuple(sorted({member.label for member in members}))
    values = before.values.clone().to(backbone.device) if before else _first_values(spec.prompt, key, start, backbone)
    weight, bias = (tensor.to(backbone.device) for tensor in _first_head(labels, backbone.dim, before))
    epochs = spec.epochs_of(len(members)) if len(labels) > 1 else 0  # one label leaves nothing to learn
    if epochs:
        values, weight, bias = _learn(backbone, spec, key, members, (values, weight, bias), progress)
    values, weight, bias = values.cpu(), weight.cpu(), bias.cpu()
    return TrainedPrompt(labels, values, weight, bias, members=len(members), sample_epochs=epochs * len(members))


def _learn(
    backbone: Backbone,
    spec: TrainingSpec,
    key: str,
    members: Sequence[TrainingExample],
    start: tuple[Tensor, Tensor, Tensor],
    progress: Progress,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, weight and bias after all steps, from those at the start."""
    values, weight, bias = (tensor.requires_grad_(True) for tensor in start)
    labels = sorted({member.label for member in members})
    images = _shown(backbone, spec, members)
    targets = torch.tensor([labels.index(member.label) for member in members])

    def loss(batch: Batch) -> Tensor:
        scores = head.logits(images.features(values, batch), weight, bias, spec.scale)
        wanted = targets[batch.rows].to(backbone.device)
        return batch.loss(scores, wanted, label_smoothing=spec.label_smoothing)

    groups = [
        {"params": [values], "lr": spec.prompt_lr, "weight_decay": spec.prompt_decay},
        {"params": [weight, bias], "lr": spec.head_lr},
    ]
    order = Order(spec, key, len(members))
    descend(spec, order, groups, loss, progress)
    if len(members) < spec.solved_below:
        seen = _features_of_members(images, values.detach(), order)
        weight, bias = head.solved(seen, [member.label for member in members], spec.scale)
    return values.detach(), weight.detach(), bias.detach()


def _first_values(spec: PromptSpec, key: str, start: Tensor | None, backbone: Backbone) -> Tensor:
    """A prompt's values before any step. Raises ValueError if `start` is not what the spec names."""
    shape = values_shape(spec, backbone)
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
    """Hex SHA-256 of a prompt's values float32."""
    return sha256(b"oubli/values/1", values.detach().cpu().float().contiguous().numpy().tobytes())


def _first_head(labels: Sequence[str], dim: int, before: TrainedPrompt | None) -> tuple[Tensor, Tensor]:
    """Weight [labels, dim] and bias [labels] before any step: zero, or those of `before` for its labels."""
    weight, bias = torch.zeros((len(labels), dim)), torch.zeros(len(labels))
    for row, label in enumerate(before.labels if before else ()):
        if before and label in labels:
            weight[labels.index(label)], bias[labels.index(label)] = before.weight[row], before.bias[row]
    return weight, bias


def _features_of_members(images: _Prompted, values: Tensor, order: Order) -> Tensor:
    """Features float32 [n, dim] of the members themselves, none mirrored, in batches of the training's size."""
    with torch.no_grad():
        batches = [images.features(values, batch) for batch in order.as_they_come()]
    return torch.cat(batches)[: order.count].cpu()


class _Prompted(Protocol):
    """Members as a prompt sees them."""

    def features(self, values: Tensor, batch: Batch) -> Tensor:
        """Features [b, dim] of a batch with a prompt of these values; differentiable in them."""


def _shown(backbone: Backbone, spec: TrainingSpec, members: Sequence[TrainingExample]) -> _Prompted:
    """Members, decoded and resized once."""
    images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
    return _Features(backbone, spec, images) if spec.prompt.kind == FEATURE else _Pixels(backbone, spec, images)


class _Pixels:
    """Images uint8 [n, 3, s, s], to which a prompt's pixels are added."""

    def __init__(self, backbone: Backbone, spec: TrainingSpec, images: Tensor) -> None:
        self._backbone, self._spec, self._images = backbone, spec.prompt, images

    def features(self, values: Tensor, batch: Batch) -> Tensor:
        """Of prompted images, mirrored as the batch says."""
        backbone = self._backbone
        images = self._images[batch.rows]
        images = torch.where(batch.mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        normalised = backbone.preprocessing.normalise(images.to(backbone.device))
        covered = trained_pixels(self._spec, backbone.input_size, *batch.name).to(backbone.device)
        return backbone.features_folded(normalised + expand(values, covered, backbone.input_size))


class _Features:
    """Activations at the cut, of which a feature prompt scales and shifts what follows."""

    def __init__(self, backbone: Backbone, spec: TrainingSpec, images: Tensor) -> None:
        self._late = backbone.cuts.at(spec.prompt.cut)
        self._activations = MemberActivations(backbone, self._late, images, flip=spec.flip)

    def features(self, values: Tensor, batch: Batch) -> Tensor:
        """Of adapted activations."""
        return self._late.late(self._activations.of(batch), values[None])

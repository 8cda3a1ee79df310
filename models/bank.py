"""The prompt bank: all served prompts and heads, stacked, so that one forward pass answers a batch that mixes clusters.

Prompts of pixels are added to the images, for one more pass of the whole backbone. Feature prompts scale and shift what
the backbone computes after their cut, each row of the batch by its own: one pass of the late part alone, of activations
that describing the images has computed already.

A prompt is put into a free row, or dropped from its row, in place: a publication costs one row, however many prompts
are served. Capacity grows by doubling. A dropped row is overwritten at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models import head
from models.activations import activations
from models.backbone import Backbone
from models.embedding import BATCH, Keep, padded_size
from models.prompt import covered_pixels, values_shape
from models.spec import FEATURE, TrainingSpec
from models.training import TrainedPrompt


@dataclass(frozen=True, eq=False)
class BankRow:
    """A prompt's place in the bank. A place that is filled again is another `BankRow`: compare by identity."""

    key: str
    index: int
    labels: tuple[str, ...]
    members: int  # samples that the prompt has seen


@dataclass(frozen=True)
class _Stack:
    """Prompts [k, 3, m] (covered pixels only) or [k, 2, width] (of features); head weights [k, labels, dim] and biases
    [k, labels].

    Heads with fewer labels than the widest are padded with a bias of minus infinity, which no softmax can choose.
    """

    prompts: Tensor
    weights: Tensor
    biases: Tensor

    @property
    def room(self) -> int:
        return len(self.prompts)

    @property
    def width(self) -> int:
        return int(self.biases.shape[1])

    def enlarged(self, room: int, width: int) -> _Stack:
        more, wider = room - self.room, width - self.width
        return _Stack(
            functional.pad(self.prompts, (0, 0, 0, 0, 0, more)),
            functional.pad(self.weights, (0, 0, 0, wider, 0, more)),
            functional.pad(self.biases, (0, wider, 0, more), value=-torch.inf),
        )


class PromptBank:
    """Prompts by key. One thread at a time may change it, while several read.

    Reads may race with `drop` and `put`: after `probabilities`, check that each BankRow is still served.
    """

    def __init__(self, backbone: Backbone, spec: TrainingSpec) -> None:
        self._pass = prompted_pass(backbone, spec)
        self._scale = spec.scale
        self._stack = _Stack(
            torch.zeros((0, *values_shape(spec.prompt, backbone)), device=backbone.device),
            torch.zeros((0, 0, backbone.dim), device=backbone.device),
            torch.zeros((0, 0), device=backbone.device),
        )
        self._free: list[int] = []
        self._rows: dict[str, BankRow] = {}

    @property
    def rows(self) -> Mapping[str, BankRow]:
        """The filled rows, by key."""
        return dict(self._rows)

    @property
    def room(self) -> int:
        """Prompts that fit before the tensors must be enlarged."""
        return self._stack.room

    def put(self, key: str, prompt: TrainedPrompt) -> BankRow:
        """Add a prompt, in place of an earlier one of this key."""
        self.drop(key)
        self._make_room(len(prompt.labels))
        row = BankRow(key, self._free.pop(), prompt.labels, prompt.members)
        count = len(prompt.labels)
        self._stack.prompts[row.index] = prompt.values
        self._stack.weights[row.index, :count] = prompt.weight
        self._stack.biases[row.index, :count] = prompt.bias
        self._rows[key] = row
        return row

    def drop(self, key: str) -> None:
        """Remove a prompt, and overwrite its numbers in memory; nothing happens without a prompt of this key."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._stack.prompts[row.index] = 0.0
            self._stack.weights[row.index] = 0.0
            self._stack.biases[row.index] = -torch.inf
            self._free.append(row.index)

    def _make_room(self, labels: int) -> None:
        stack = self._stack
        if self._free and labels <= stack.width:
            return
        room = stack.room if self._free else max(4, 2 * stack.room)
        width = stack.width if labels <= stack.width else max(labels, 2 * stack.width)
        self._stack = stack.enlarged(room, width)
        self._free += reversed(range(stack.room, room))

    def probabilities(self, backbone: Backbone, shown: Tensor, rows: Tensor) -> Tensor:
        """Probabilities [n, labels] by the prompts at the indices `rows` [n].

        shown  resized images uint8 [n, 3, s, s]; of feature prompts, activations float32 [n, ...] at their cut.
        """
        starts = range(0, len(shown), BATCH)
        return torch.cat([self._answer(backbone, shown[i : i + BATCH], rows[i : i + BATCH]) for i in starts])

    def _answer(self, backbone: Backbone, shown: Tensor, rows: Tensor) -> Tensor:
        count, stack = len(shown), self._stack
        with torch.inference_mode():
            chosen = functional.pad(rows, (0, padded_size(count) - count)).to(backbone.device)
            missing = [0, 0] * (shown.dim() - 1) + [0, len(chosen) - count]
            padded = functional.pad(shown, missing).to(backbone.device)
            features = self._pass(padded, stack.prompts[chosen])
            scores = head.gathered_logits(features, stack.weights[chosen], stack.biases[chosen], self._scale)
            return scores[:count].softmax(dim=1).cpu()


PromptedPass = Callable[[Tensor, Tensor], Tensor]  # what is shown [n, ...], a prompt for each [n, 2 or 3, m]: features


def prompted_pass(backbone: Backbone, spec: TrainingSpec) -> PromptedPass:
    """The pass that gives features [n, dim] of what is shown, with a prompt for each row."""
    if spec.prompt.kind == FEATURE:
        late = backbone.cuts.at(spec.prompt.cut)
        return lambda activations, prompts: late.inference(activations, prompts)[0]
    covered = covered_pixels(spec.prompt, backbone.input_size).to(backbone.device)

    def of_pixels(images: Tensor, prompts: Tensor) -> Tensor:
        prompted = backbone.preprocessing.normalise(images)
        prompted.flatten(2).index_add_(2, covered, prompts)
        return backbone.inference(prompted)[0]

    return of_pixels


def kept_for(spec: TrainingSpec) -> Keep | None:
    """What describing images must keep for a bank of such prompts; None if it is asked about the images themselves."""
    return Keep(spec.prompt.cut) if spec.prompt.kind == FEATURE else None


def warm_up(backbone: Backbone, spec: TrainingSpec, count: int) -> None:
    """Run the pass once with so many images: its first run in a shape takes many times as long."""
    size = backbone.input_size
    shape = (count, 3, size, size)
    with torch.inference_mode():
        shown = torch.zeros(shape, dtype=torch.uint8)
        if spec.prompt.kind == FEATURE:
            shown = torch.zeros((count, *backbone.cuts.at(spec.prompt.cut).shape))
        prompts = torch.zeros((count, *values_shape(spec.prompt, backbone)), device=backbone.device)
        prompted_pass(backbone, spec)(shown.to(backbone.device), prompts)


def shown_to(backbone: Backbone, spec: TrainingSpec, images: Tensor) -> Tensor:
    """What a bank of such prompts is asked about, of resized images uint8 [n, 3, s, s]."""
    if spec.prompt.kind != FEATURE:
        return images
    return activations(backbone, backbone.cuts.at(spec.prompt.cut), images)


def stack(backbone: Backbone, spec: TrainingSpec, prompts: Mapping[str, TrainedPrompt]) -> PromptBank:
    """A bank of these prompts, by key."""
    bank = PromptBank(backbone, spec)
    for key, prompt in prompts.items():
        bank.put(key, prompt)
    return bank

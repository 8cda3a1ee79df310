"""The prompt bank: all served prompts and heads, stacked, so that one forward pass answers a batch that mixes clusters.

A prompt is put into a free row, or dropped from its row, in place: a publication costs one row, however many prompts
are served. Capacity grows by doubling. A dropped row is overwritten at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models import head
from models.backbone import Backbone
from models.embedding import BATCH, padded_size
from models.prompt import covered_pixels
from models.spec import TrainingSpec
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
    """Prompts [k, 3, m] (covered pixels only), head weights [k, labels, dim] and biases [k, labels].

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
        self._covered = covered_pixels(spec.prompt, backbone.input_size).to(backbone.device)
        self._scale = spec.scale
        self._stack = _Stack(
            torch.zeros((0, 3, len(self._covered)), device=backbone.device),
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

    def probabilities(self, backbone: Backbone, images: Tensor, rows: Tensor) -> Tensor:
        """Probabilities [n, labels] for resized images uint8 [n, 3, s, s], by the prompts at the indices `rows` [n]."""
        starts = range(0, len(images), BATCH)
        return torch.cat([self._answer(backbone, images[i : i + BATCH], rows[i : i + BATCH]) for i in starts])

    def _answer(self, backbone: Backbone, images: Tensor, rows: Tensor) -> Tensor:
        count, stack = len(images), self._stack
        with torch.inference_mode():
            chosen = functional.pad(rows, (0, padded_size(count) - count)).to(backbone.device)
            padded = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, len(chosen) - count)).to(backbone.device)
            prompted = backbone.preprocessing.normalise(padded)
            prompted.flatten(2).index_add_(2, self._covered, stack.prompts[chosen])
            (features,) = backbone.inference(prompted)
            scores = head.gathered_logits(features, stack.weights[chosen], stack.biases[chosen], self._scale)
            return scores[:count].softmax(dim=1).cpu()


def stack(backbone: Backbone, spec: TrainingSpec, prompts: Mapping[str, TrainedPrompt]) -> PromptBank:
    """A bank of these prompts, by key."""
    bank = PromptBank(backbone, spec)
    for key, prompt in prompts.items():
        bank.put(key, prompt)
    return bank

"""Every served prompt and head, stacked, so that one forward pass answers a batch that mixes clusters.

A bank is immutable: a publication or a withdrawal makes a new one. Row i of each tensor belongs to keys[i].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models import head
from models.backbone import Backbone
from models.prompt import covered_pixels, expand
from models.spec import TrainingSpec
from models.training import TrainedPrompt


@dataclass(frozen=True)
class PromptBank:
    """Stacked prompts [k, 3, s, s], head weights [k, labels, dim] and biases [k, labels].

    Heads with fewer labels than the widest are padded with a bias of minus infinity, which no softmax can choose.
    """

    keys: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    prompts: Tensor
    weights: Tensor
    biases: Tensor
    scale: float

    def probabilities(self, backbone: Backbone, images: Tensor, rows: Tensor) -> Tensor:
        """[n, labels] for resized images uint8 [n, 3, s, s], each answered by the prompt in its row [n]."""
        with torch.inference_mode():
            device_rows = rows.to(backbone.device)
            normalised = backbone.preprocessing.normalise(images.to(backbone.device))
            features = backbone.features(normalised + self.prompts[device_rows])
            scores = head.gathered_logits(features, self.weights[device_rows], self.biases[device_rows], self.scale)
            return scores.softmax(dim=1).cpu()


def stack(backbone: Backbone, spec: TrainingSpec, prompts: Mapping[str, TrainedPrompt]) -> PromptBank:
    """The bank of these prompts by key."""
    keys = tuple(prompts)
    widest = max((len(prompt.labels) for prompt in prompts.values()), default=0)
    size = backbone.input_size
    covered = covered_pixels(spec.prompt, size)
    stacked = torch.zeros((len(keys), 3, size, size))
    weights = torch.zeros((len(keys), widest, backbone.dim))
    biases = torch.full((len(keys), widest), -torch.inf)
    for row, prompt in enumerate(prompts.values()):
        count = len(prompt.labels)
        stacked[row] = expand(prompt.values, covered, size)
        weights[row, :count] = prompt.weight
        biases[row, :count] = prompt.bias
    return PromptBank(
        keys=keys,
        labels=tuple(prompt.labels for prompt in prompts.values()),
        prompts=stacked.to(backbone.device),
        weights=weights.to(backbone.device),
        biases=biases.to(backbone.device),
        scale=spec.scale,
    )

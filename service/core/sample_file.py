"""The file of a sample: pixels, embedding and descriptor in one object, so that one deletion deletes all of them.

safetensors: `pixels` uint8 [height, width, 3], `embedding` float32 [dim] and, except in files of the first releases,
`descriptor` float32 [width]; the checksums of the last two in its header.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from models.embedding import Descriptor, Embedding
from models.image import Pixels, pixel_digest
from service.artifacts import ObjectMissing


class DamagedSample(ValueError):
    """The object is not the undamaged file of the recorded sample."""


class Contents(NamedTuple):
    """The content of a sample's file; without a descriptor in those of the first releases."""

    pixels: Pixels
    embedding: Embedding
    descriptor: Descriptor | None


def words(error: Exception) -> str:
    """Why a sample's file could not be read, in words for people."""
    if isinstance(error, ObjectMissing):
        return "its file is missing"
    if isinstance(error, OSError):
        return f"its file cannot be read ({error.strerror or type(error).__name__})"
    return str(error)


def encode(pixels: Pixels, embedding: Embedding, descriptor: Descriptor) -> bytes:
    """The bytes of a sample's file."""
    described = {"embedding": embedding, "descriptor": descriptor}
    return safetensors.numpy.save({"pixels": pixels, **described}, {n: _checksum(v) for n, v in described.items()})


def decode(data: bytes, *, digest: str) -> Contents:
    """The content of a file. Raises DamagedSample if bytes are missing or changed, or the pixels lack that digest."""
    tensors = _tensors(data)
    embedding = _described(data, tensors, "embedding")
    pixels = tensors.get("pixels", np.empty(0))
    if embedding is None:
        raise DamagedSample("its embedding is missing")
    if pixels.ndim != 3 or pixels.dtype.name != "uint8" or pixel_digest(pixels) != digest:
        raise DamagedSample("its pixels do not have the recorded digest")
    return Contents(pixels, embedding, _described(data, tensors, "descriptor"))


def descriptor(data: bytes) -> Descriptor | None:
    """The descriptor of a file; None in a file of the first releases. Raises DamagedSample."""
    return _described(data, _tensors(data), "descriptor")


def _tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DamagedSample(f"it cannot be read ({error})") from None


def _described(data: bytes, tensors: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.float32] | None:
    found = tensors.get(name)
    if found is None:
        return None
    if found.ndim != 1 or found.dtype.name != "float32" or not np.isfinite(found).all():
        raise DamagedSample(f"its {name} is not a vector of finite float32 numbers")
    if _recorded_checksum(data, name) not in (None, _checksum(found)):
        raise DamagedSample(f"its {name} does not have the recorded digest")
    return found


def _checksum(described: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(described).tobytes()).hexdigest()


def _recorded_checksum(data: bytes, name: str) -> str | None:
    """The checksum in the file's header; None in files of the first release."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: str | None = header.get("__metadata__", {}).get(name)
    return found

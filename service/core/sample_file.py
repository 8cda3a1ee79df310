"""One object a sample: its pixels and its embedding together, so that one deletion destroys both.

safetensors with two tensors: `pixels` uint8 [height, width, 3] and `embedding` float32 [dim].
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import safetensors
import safetensors.numpy

from models.embedding import Embedding
from models.image import Pixels, pixel_digest
from service.artifacts import ObjectMissing


class DamagedSample(ValueError):
    """The object is not the sample that the registry knows."""


def words(error: Exception) -> str:
    """Why a sample's object could not be had, for people."""
    if isinstance(error, ObjectMissing):
        return "its file is missing"
    if isinstance(error, OSError):
        return f"its file cannot be read ({error.strerror or type(error).__name__})"
    return str(error)


def encode(pixels: Pixels, embedding: Embedding) -> bytes:
    """The object's bytes."""
    metadata = {"embedding": _checksum(embedding)}
    return safetensors.numpy.save({"pixels": pixels, "embedding": embedding}, metadata)


def decode(data: bytes, *, digest: str) -> tuple[Pixels, Embedding]:
    """Pixels and embedding. Raises DamagedSample if the bytes are cut, or the pixels are not those of `digest`."""
    try:
        tensors = safetensors.numpy.load(data)
        pixels, embedding = tensors["pixels"], tensors["embedding"]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DamagedSample(f"it cannot be read ({error})") from None
    if embedding.ndim != 1 or embedding.dtype.name != "float32" or not np.isfinite(embedding).all():
        raise DamagedSample("its embedding is none")
    if _recorded_checksum(data) not in (None, _checksum(embedding)):
        raise DamagedSample("its embedding does not have the recorded digest")
    if pixels.ndim != 3 or pixels.dtype.name != "uint8" or pixel_digest(pixels) != digest:
        raise DamagedSample("its pixels do not have the recorded digest")
    return pixels, embedding


def _checksum(embedding: Embedding) -> str:
    return hashlib.sha256(np.ascontiguousarray(embedding).tobytes()).hexdigest()


def _recorded_checksum(data: bytes) -> str | None:
    """From the file's header; None in files of the first release."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: str | None = header.get("__metadata__", {}).get("embedding")
    return found

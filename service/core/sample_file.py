"""The file of a sample: pixels, embedding and descriptor in one object, so that one deletion deletes all of them.

safetensors: `pixels` uint8 [height, width, 3], `embedding` float32 [dim] and `descriptor` int16 [width]; in its header
the checksums of the last two and the descriptor's kind. Files of earlier releases have a `quick` descriptor as float32
[width], without a name of its kind, or none at all.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from models.descriptor import Descriptor, quantise
from models.descriptor_kind import QUICK
from models.embedding import Embedding
from models.image import Pixels, pixel_digest
from service.artifacts import ObjectMissing

_KIND = "kind"


class DamagedSample(ValueError):
    """The object is not the undamaged file of the recorded sample."""


class Contents(NamedTuple):
    """The content of a sample's file; `kind` is the name of the descriptor's, None without one."""

    pixels: Pixels
    embedding: Embedding
    descriptor: Descriptor | None
    kind: str | None


def words(error: Exception) -> str:
    """Why a sample's file could not be read, in words for people."""
    if isinstance(error, ObjectMissing):
        return "its file is missing"
    if isinstance(error, OSError):
        return f"its file cannot be read ({error.strerror or type(error).__name__})"
    return str(error)


def encode(pixels: Pixels, embedding: Embedding, descriptor: Descriptor, *, kind: str) -> bytes:
    """The bytes of a sample's file; `kind` is the name of the descriptor's."""
    described: dict[str, npt.NDArray[Any]] = {"embedding": embedding, "descriptor": descriptor}
    header = {name: _checksum(value) for name, value in described.items()}
    return safetensors.numpy.save({"pixels": pixels, **described}, {**header, _KIND: kind})


def decode(data: bytes, *, digest: str) -> Contents:
    """The content of a file. Raises DamagedSample if bytes are missing or changed, or the pixels lack that digest."""
    tensors = _tensors(data)
    embedding = _embedding(data, tensors)
    pixels = tensors.get("pixels", np.empty(0))
    if embedding is None:
        raise DamagedSample("its embedding is missing")
    if pixels.ndim != 3 or pixels.dtype.name != "uint8" or pixel_digest(pixels) != digest:
        raise DamagedSample("its pixels do not have the recorded digest")
    return Contents(pixels, embedding, *_descriptor(data, tensors))


def descriptor(data: bytes, *, kind: str) -> Descriptor | None:
    """The descriptor of a file; None if it is of another kind, or missing. Raises DamagedSample."""
    found, found_kind = _descriptor(data, _tensors(data))
    return found if found_kind == kind else None


def _tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DamagedSample(f"it cannot be read ({error})") from None


def _embedding(data: bytes, tensors: dict[str, npt.NDArray[Any]]) -> Embedding | None:
    found = tensors.get("embedding")
    if found is None:
        return None
    if found.ndim != 1 or found.dtype.name != "float32" or not np.isfinite(found).all():
        raise DamagedSample("its embedding is not a vector of finite float32 numbers")
    _compare(data, found, "embedding")
    return found


def _descriptor(data: bytes, tensors: dict[str, npt.NDArray[Any]]) -> tuple[Descriptor | None, str | None]:
    """The descriptor and the name of its kind."""
    found = tensors.get("descriptor")
    if found is None:
        return None, None
    kind = _header(data).get(_KIND)
    expected = "float32" if kind is None else "int16"
    if found.ndim != 1 or found.dtype.name != expected or not np.isfinite(found).all():
        raise DamagedSample(f"its descriptor is not a vector of finite {expected} numbers")
    _compare(data, found, "descriptor")
    return (quantise(found), QUICK) if kind is None else (found, kind)


def _compare(data: bytes, found: npt.NDArray[Any], name: str) -> None:
    """Raise DamagedSample unless it has the checksum in the file's header; files of the first release have none."""
    if _header(data).get(name) not in (None, _checksum(found)):
        raise DamagedSample(f"its {name} does not have the recorded digest")


def _checksum(described: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(described).tobytes()).hexdigest()


def _header(data: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    return found

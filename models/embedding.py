"""Embeddings that depend on the image alone.

The last bits of a forward pass depend on the batch shape. Here every batch is padded to one fixed shape, which
makes an image's embedding bit-identical at any position, with any neighbours, at any thread count (measured at
batch 16, 32 and 64 and 1 to 16 threads). Embeddings are part of what a model is built from, so this matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.backbone import Backbone

Embedding = npt.NDArray[np.float32]
Descriptor = npt.NDArray[np.float32]

DESCRIPTOR = "every block but the first/1"  # what a descriptor is made of; part of every digest of the closed form
BATCH = 16  # images; a change of it changes every embedding in its last bits
SHAPES = (1, 2, 4, 8, 12, BATCH)  # that a batch is padded to where the last bits do not matter


class DegenerateEmbedding(ValueError):
    """The backbone gives no direction for this image (zero or non-finite features)."""


class Described(NamedTuple):
    """The backbone's description of n images; a row is NaN where its features are zero or not finite (`check`).

    embeddings   [n, dim]: its pooled features, L2-normalised. Samples are routed by them.
    descriptors  [n, width]: unit vectors of what it sees at several depths, each L2-normalised and of equal weight.
                 The closed-form tier is fitted on them: 0.788 right on 10,000 CIFAR-10 images where the embeddings give
                 0.741 (docs/explanation/evaluation.md).
    """

    embeddings: Embedding
    descriptors: Descriptor


def describe(backbone: Backbone, images: Sequence[Tensor], *, exact: bool = True) -> Described:
    """Embeddings and descriptors of resized images, each uint8 [3, s, s], in one pass.

    exact  False for images to be classified, whose description is not recorded: a small batch is not padded to full
           size, so it is faster, and the last bits depend on its size.
    """
    if not images:
        return Described(*(np.empty((0, width), np.float32) for width in (backbone.dim, backbone.descriptor_width)))
    parts = [_describe_batch(backbone, c, BATCH if exact else padded_size(len(c))) for c in _chunks(images)]
    return Described(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def embed(backbone: Backbone, images: Sequence[Tensor]) -> Embedding:
    """The embeddings alone."""
    return describe(backbone, images).embeddings


def check(embedding: Embedding, descriptor: Descriptor | None = None) -> None:
    """Raise DegenerateEmbedding unless every entry of both is finite."""
    if not (np.isfinite(embedding).all() and (descriptor is None or np.isfinite(descriptor).all())):
        raise DegenerateEmbedding("The backbone finds no features in this image that distinguish it from others.")


def _chunks(images: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def padded_size(count: int) -> int:
    """The smallest of `SHAPES` with room for that many images, at most BATCH."""
    return next(size for size in SHAPES if size >= count)


def unpadded_size(count: int) -> int:
    """How many of that many images, at least one, can be computed without padding."""
    return count - count % BATCH if count >= BATCH else max(size for size in SHAPES if size <= count)


def _describe_batch(backbone: Backbone, images: Sequence[Tensor], size: int) -> Described:
    batch = torch.zeros((size, *images[0].shape), dtype=torch.uint8)
    torch.stack(list(images), out=batch[: len(images)])
    with torch.inference_mode():
        normalised = backbone.preprocessing.normalise(batch.to(backbone.device))
        pooled, *depths = backbone.description(normalised)
    embeddings = _unit(pooled)
    descriptors = np.concatenate([_unit(depth) for depth in depths], axis=1) / np.sqrt(len(depths))
    count = len(images)
    return Described(*(np.ascontiguousarray(rows[:count], dtype=np.float32) for rows in (embeddings, descriptors)))


def _unit(features: Tensor) -> npt.NDArray[np.float64]:
    rows = features.cpu().double().numpy()
    norms = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: npt.NDArray[np.float64] = np.where(norms > 1e-12, rows / norms, np.nan)
    return unit

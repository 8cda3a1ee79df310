"""Embeddings that depend on the image alone.

The last bits of a forward pass depend on the batch shape. Here every batch is padded to one fixed shape, which
makes an image's embedding bit-identical at any position, with any neighbours, at any thread count (measured at
batch 16, 32 and 64 and 1 to 16 threads). Embeddings are part of what a model is built from, so this matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.backbone import Backbone

Embedding = npt.NDArray[np.float32]

BATCH = 16  # images; a change of it changes every embedding in its last bits


class DegenerateEmbedding(ValueError):
    """The backbone gives no direction for this image (zero or non-finite features)."""


def embed(backbone: Backbone, images: Sequence[Tensor]) -> Embedding:
    """L2-normalised features float32 [n, dim] of resized images, each uint8 [3, s, s].

    A row is NaN where the features are zero or not finite; `check` says so in words.
    """
    if not images:
        return np.empty((0, backbone.dim), dtype=np.float32)
    rows = [_embed_batch(backbone, chunk) for chunk in _chunks(images)]
    return np.concatenate(rows)


def check(embedding: Embedding) -> None:
    """Raise DegenerateEmbedding unless every entry is finite."""
    if not np.isfinite(embedding).all():
        raise DegenerateEmbedding("The backbone finds nothing in this image that it could be told apart by.")


def _chunks(images: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def _embed_batch(backbone: Backbone, images: Sequence[Tensor]) -> Embedding:
    batch = torch.zeros((BATCH, *images[0].shape), dtype=torch.uint8)
    torch.stack(list(images), out=batch[: len(images)])
    with torch.inference_mode():
        normalised = backbone.preprocessing.normalise(batch.to(backbone.device))
        features = backbone.features(normalised).cpu().double().numpy()
    norms = np.sqrt(np.sum(features * features, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(norms > 1e-12, features / norms, np.nan)
    return np.ascontiguousarray(unit[: len(images)], dtype=np.float32)

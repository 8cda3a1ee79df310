"""Embeddings that depend on the image alone.

The last bits of a forward pass depend on the batch shape. Here every batch is padded to one fixed shape, which
makes an image's embedding bit-identical at any position, with any neighbours, at any thread count (measured at
batch 16, 32 and 64 and 1 to 16 threads). Embeddings are part of what a model is built from, so this matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.backbone import Backbone
from models.descriptor import Descriptor, quantise
from models.late import LatePart

Embedding = npt.NDArray[np.float32]

BATCH = 16  # images; a change of it changes every embedding in its last bits
SILENT = 1e-6  # norm of a part that says nothing, as the deviations of a picture of one colour do: it is left at zero
SHAPES = (1, 2, 4, 8, 12, BATCH)  # that a batch is padded to where the last bits do not matter


class DegenerateEmbedding(ValueError):
    """The backbone gives no direction for this image (zero or non-finite features)."""


class Described(NamedTuple):
    """The backbone's description of n images; where features are zero or not finite, it says nothing (`check`).

    embeddings   [n, dim]: its pooled features, L2-normalised; a row of NaN says nothing. Samples are routed by them.
    descriptors  [n, width] of the backbone's kind; a row of zeros says nothing. Every part is L2-normalised, then the
                 whole, then the sum of the views. The closed-form tier is fitted on them
                 (docs/explanation/evaluation.md says how much each kind is worth).
    """

    embeddings: Embedding
    descriptors: Descriptor


@dataclass
class Keep:
    """What describing images computes at a cut, for what is then asked about them.

    activations  one [...] an image.
    mirrored     the same of the mirror images, if they are described as well.
    """

    cut: int | None
    activations: list[Tensor] = field(default_factory=list)
    mirrored: list[Tensor] = field(default_factory=list)


def describe(
    backbone: Backbone, images: Sequence[Tensor], *, exact: bool = True, keep: Keep | None = None
) -> Described:
    """Embeddings and descriptors of resized images, each uint8 [3, s, s].

    Where the backbone's kind has the mirror image as a second view, an image takes two places of a batch: one new
    sample costs the same full batch as before, and a full batch holds half as many.

    exact  False for images to be classified, whose description is not recorded: a small batch is not padded to full
           size, so it is faster, and the last bits depend on its size.
    keep   what is to be kept of the same passes, which is appended to.
    """
    if not images:
        return Described(np.empty((0, backbone.dim), np.float32), np.empty((0, backbone.descriptor_width), np.int16))
    views = backbone.kind.views
    embeddings, descriptors = [], []
    for chunk in _chunks(images, BATCH // views):
        batch = _batch(chunk, BATCH if exact else padded_size(views * len(chunk)), views)
        pooled, *parts = _passed(backbone, batch, keep, len(chunk), views)
        embeddings.append(_unit(pooled[: len(chunk)]).astype(np.float32))
        descriptors.append(combine([part[: views * len(chunk)] for part in parts], views, backbone.part_widths))
    return Described(np.concatenate(embeddings), np.concatenate(descriptors))


def describe_adapted(
    backbone: Backbone, late: LatePart, values: Tensor, images: Sequence[Tensor], *, views: int = 2
) -> Descriptor:
    """Descriptors [n, width] of resized images, each uint8 [3, s, s], as a network adapted by one prompt sees them.

    values  of a feature prompt, float32 [2, width].
    views   1, or 2 with the mirror image.

    As with `describe`, a row of zeros says nothing, and no bit depends on an image's neighbours.
    """
    found = [np.empty((0, sum(late.depths.widths)), np.int16)]
    prompt = values[None].to(backbone.device)
    for chunk in _chunks(images, BATCH // views):
        batch = _batch(chunk, BATCH, views).to(backbone.device)
        with torch.no_grad():
            parts = late.read(late.early(backbone.preprocessing.normalise(batch)), prompt)
        rows = [part[: views * len(chunk)].cpu().double().numpy() for part in parts]
        found.append(combine(rows, views, late.depths.widths))
    return np.concatenate(found)


def describe_activations(
    backbone: Backbone, late: LatePart, values: Tensor, views: Sequence[Sequence[Tensor]]
) -> Descriptor:
    """Adapted descriptors [n, width] of images to be classified, whose activations at the cut are known.

    values  of a feature prompt, float32 [2, width].
    views   activations [...] of n images, and of their mirror images if descriptors see them.
    """
    found = [np.empty((0, sum(late.depths.widths)), np.int16)]
    prompt = values[None].to(backbone.device)
    most = BATCH // len(views)
    for start in range(0, len(views[0]), most):
        chunk = [one for view in views for one in view[start : start + most]]
        given = torch.stack(chunk)
        padded = torch.zeros((padded_size(len(chunk)), *given.shape[1:]), device=given.device)
        padded[: len(chunk)] = given
        with torch.inference_mode():
            parts = late.read(padded.to(backbone.device), prompt)
        rows = [part[: len(chunk)].cpu().double().numpy() for part in parts]
        found.append(combine(rows, len(views), late.depths.widths))
    return np.concatenate(found)


def embed(backbone: Backbone, images: Sequence[Tensor]) -> Embedding:
    """The embeddings alone, of one view: the same bits as `describe` gives."""
    passes = [_passed(backbone, _batch(chunk, BATCH, 1))[0][: len(chunk)] for chunk in _chunks(images, BATCH)]
    rows = np.concatenate([_unit(pooled) for pooled in passes]) if passes else np.empty((0, backbone.dim))
    return rows.astype(np.float32)


def check(embedding: Embedding, descriptor: Descriptor | None = None) -> None:
    """Raise DegenerateEmbedding if either says nothing, or an entry is not finite."""
    if not (np.isfinite(embedding).all() and (descriptor is None or descriptor.any())):
        raise DegenerateEmbedding("The backbone finds no features in this image that distinguish it from others.")


def _chunks(images: Sequence[Tensor], most: int) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(images), most):
        yield images[start : start + most]


def padded_size(count: int) -> int:
    """The smallest of `SHAPES` with room for that many images, at most BATCH."""
    return next(size for size in SHAPES if size >= count)


def unpadded_size(count: int) -> int:
    """How many of that many images, at least one, can be computed without padding."""
    return count - count % BATCH if count >= BATCH else max(size for size in SHAPES if size <= count)


def _batch(images: Sequence[Tensor], size: int, views: int) -> Tensor:
    """uint8 [size, 3, s, s]: the images, then their mirror images if there are two views, then nothing."""
    batch = torch.zeros((size, *images[0].shape), dtype=torch.uint8)
    first = torch.stack(list(images), out=batch[: len(images)])
    if views == 2:
        batch[len(images) : 2 * len(images)] = first.flip(3)
    return batch


def _passed(
    backbone: Backbone, batch: Tensor, keep: Keep | None = None, count: int = 0, views: int = 1
) -> list[npt.NDArray[np.float64]]:
    """Pooled features and parts of every row, in one forward pass; activations of `count` images are kept."""
    passed = backbone.description if keep is None else backbone.cuts.description(keep.cut)
    with torch.inference_mode():
        found = list(passed(backbone.preprocessing.normalise(batch.to(backbone.device))))
        if keep is not None:
            kept = found.pop()
            keep.activations += kept[:count].unbind()
            keep.mirrored += kept[count : views * count].unbind()
    return [rows.cpu().double().numpy() for rows in found]


def combine(parts: Sequence[npt.NDArray[np.float64]], views: int, widths: Sequence[int]) -> Descriptor:
    """Descriptors [n, width] of parts of all views, each [views * n, width of the part]."""
    rows = np.concatenate(parts, axis=1)  # [views * n, width]
    starts = np.cumsum([0, *widths[:-1]])
    norms = np.sqrt(np.add.reduceat(rows * rows, starts, axis=1))  # [views * n, parts]
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = np.where(norms > SILENT, 1.0 / norms, np.where(np.isfinite(norms), 0.0, np.nan))
    rows *= np.repeat(scales, widths, axis=1)
    count = len(rows) // views
    whole = _unit(rows)
    summed = _unit(whole[:count] + whole[count:]) if views == 2 else whole
    return quantise(summed.astype(np.float32))


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows of length one; NaN in place of a row that is zero or not finite."""
    norms = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: npt.NDArray[np.float64] = np.where(norms > 1e-12, rows / norms, np.nan)
    return unit

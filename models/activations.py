"""The activations of images at a cut: what a feature prompt adapts, and all that it needs of an image.

Every batch has one fixed size, so the bits of an image's activations do not depend on its neighbours, as with its
embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.backbone import Backbone
from models.descent import Batch
from models.embedding import BATCH
from models.late import LatePart

# Both views of 20,000 images at the default cut of the default backbone. What keeping them saves: decision 0028.
MOST_KEPT = 1 << 30  # bytes


def activations(backbone: Backbone, late: LatePart, images: Tensor) -> Tensor:
    """Activations float32 [n, ...] of resized images uint8 [n, 3, s, s], in the computer's memory."""
    found = torch.empty((len(images), *late.shape))
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            batch = torch.zeros((BATCH, *images.shape[1:]), dtype=torch.uint8)
            batch[: len(chunk)] = chunk
            ready = backbone.preprocessing.normalise(batch.to(backbone.device))
            found[start : start + BATCH] = late.early(ready)[: len(chunk)]
    return found


class MemberActivations:
    """Activations of a cluster's members, kept while they fit in memory, or else computed anew: the same bits.

    images  resized, uint8 [n, 3, s, s].
    flip    whether mirror images are asked for, too.
    """

    def __init__(
        self, backbone: Backbone, late: LatePart, images: Tensor, *, flip: bool, most: int = MOST_KEPT
    ) -> None:
        self._backbone, self._late, self._images = backbone, late, images
        one = 4 * torch.Size(late.shape).numel()
        views = [images, images.flip(3)] if flip else [images]
        fits = len(images) * len(views) * one <= most
        self._kept = [activations(backbone, late, view) for view in views] if fits else None

    def of(self, batch: Batch) -> Tensor:
        """Activations [b, ...] on the backbone's device, mirrored as the batch says."""
        shape = [-1] + [1] * (self._images.dim() - 1)
        if self._kept is None:
            images = self._images[batch.rows]
            images = torch.where(batch.mirrored.view(shape), images.flip(3), images)
            return activations(self._backbone, self._late, images).to(self._backbone.device)
        found = self._kept[0][batch.rows]
        if len(self._kept) == 2:
            found[batch.mirrored] = self._kept[1][batch.rows[batch.mirrored]]
        return found.to(self._backbone.device)

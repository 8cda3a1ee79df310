"""What the adapted backbone sees: descriptors of images, by the values of an adapter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.descriptor import Descriptor
from models.embedding import BATCH, describe_adapted
from models.image import Pixels
from models.late import LatePart
from models.training import TrainedPrompt, TrainingExample
from service.core.context import Context


def late_part(context: Context) -> LatePart:
    """What lies after the cut that the adapter has."""
    return context.backbone.cuts.at(context.adapting.prompt.cut)


def width(context: Context) -> int:
    """Entries of an adapted descriptor."""
    return sum(late_part(context).depths.widths)


def describe(context: Context, values: Tensor, pictures: Sequence[Pixels]) -> Descriptor:
    """Adapted descriptors [n, width] of pictures, with as many views as frozen ones; a row of zeros says nothing.

    values  of the adapter, float32 [2, width].
    """
    backbone = context.backbone
    resized = [backbone.preprocessing.resize(pixels) for pixels in pictures]
    return describe_adapted(backbone, late_part(context), values, resized, views=backbone.kind.views)


def says_something(context: Context, adapter: TrainedPrompt, members: Sequence[TrainingExample]) -> bool:
    """Whether the adapted backbone sees anything in its first members: finite values may be too large."""
    first = [member.pixels for member in members[:BATCH]]
    return bool(describe(context, adapter.values, first).any(axis=1).all())

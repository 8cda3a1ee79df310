"""The adapter at work: reading its artifact, describing images as the adapted backbone sees them, and their files.

The file of an adapted descriptor is safetensors with one tensor, int16 [width], and its checksum in the header.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy
from torch import Tensor

from models import checkpoint
from models.descriptor import Descriptor
from models.embedding import BATCH, describe_adapted
from models.image import Pixels
from models.late import LatePart
from models.training import TrainedPrompt, TrainingExample
from service.artifacts import ObjectMissing
from service.core.context import Context
from service.registry import clusters, prompts, state
from service.registry.records import Prompt

log = logging.getLogger(__name__)


class DamagedDescriptor(ValueError):
    """The object is not the undamaged file of an adapted descriptor."""


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
    """Whether the adapted backbone sees anything in its first members: it may be blind, and its values finite."""
    first = [member.pixels for member in members[:BATCH]]
    seen = describe(context, adapter.values, first)
    differ = any(not np.array_equal(pixels, first[0]) for pixels in first)
    return bool(seen.any(axis=1).all()) and not (differ and len(np.unique(seen, axis=0)) == 1)


def kind(adapter: Prompt) -> str:
    """The name of the kind of its descriptors, in digests: by the adapter's tensors, so by the core and its order."""
    return f"adapted/1 {adapter.digest}"


def encode(descriptor: Descriptor) -> bytes:
    """The bytes of an adapted descriptor's file."""
    return safetensors.numpy.save({"descriptor": descriptor}, {"checksum": _checksum(descriptor)})


def decode(data: bytes, *, width: int) -> Descriptor:
    """The descriptor in a file. Raises DamagedDescriptor."""
    try:
        found = safetensors.numpy.load(data)["descriptor"]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DamagedDescriptor(f"it cannot be read ({error})") from None
    if found.shape != (width,) or found.dtype.name != "int16":
        raise DamagedDescriptor(f"it is not a vector of {width} int16 numbers")
    if header.get("checksum") != _checksum(found):
        raise DamagedDescriptor("it does not have the recorded digest")
    descriptor: Descriptor = found
    return descriptor


def _checksum(descriptor: Descriptor) -> str:
    return hashlib.sha256(np.ascontiguousarray(descriptor).tobytes()).hexdigest()


def read(context: Context, adapter: Prompt) -> Tensor:
    """The values of a published adapter, float32 [2, width]. Raises OSError, ObjectMissing or CheckpointMismatch."""
    data, identity = context.store.get(adapter.object_name), context.identity_of(context.adapting)
    return checkpoint.load(
        data, key=adapter.key, digest=adapter.digest, labels=adapter.labels, identity=identity
    ).values


def load(context: Context, adapter: Prompt) -> Tensor | None:
    """The values of a published adapter, float32 [2, width]; None if its artifact is damaged. Raises OSError.

    A damaged one is withdrawn, and trained again.
    """
    try:
        return read(context, adapter)
    except checkpoint.OtherIdentity:
        return None  # trained with settings that have changed; its successor is being trained
    except (ObjectMissing, checkpoint.CheckpointMismatch) as error:
        with context.registry.write() as session:
            if prompts.is_current(session, adapter):
                log.error("the adapter cannot be used and is trained again: %s", error)
                clusters.discard(session, adapter.key)
                prompts.drop_unserved(session)
                state.bump_epoch(session)
        return None

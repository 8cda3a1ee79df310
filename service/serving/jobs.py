"""Jobs for the engine, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.descriptor import Descriptor
from models.embedding import Embedding
from service.decoding.protocol import DecodedImage
from service.errors import ServiceError


@dataclass(frozen=True)
class Query:
    """An image to be classified: resized uint8 [3, s, s], and its digest, which some partitions route by."""

    image: Tensor
    digest: str

    @classmethod
    def of(cls, image: DecodedImage) -> Query:
        """The query for a decoded image."""
        return cls(torch.from_numpy(image.resized), image.digest)


@dataclass(frozen=True)
class EmbedJob:
    """An image that is to become a sample: resized uint8 [3, s, s]."""

    image: Tensor

    @classmethod
    def of(cls, image: DecodedImage) -> EmbedJob:
        """The job for a decoded image."""
        return cls(torch.from_numpy(image.resized))


@dataclass(frozen=True)
class Description:
    """The description of a new sample: embedding [dim] and descriptor [width], the same bits in whatever batch."""

    embedding: Embedding
    descriptor: Descriptor


@dataclass(frozen=True)
class Answer:
    """The answer to a query: labels with their probabilities, best first, and where they come from.

    tier      "prompt", "closed_form", or "fused" of both.
    cluster   of the prompt; without one, the image's own, if it has any.
    degraded  the image's own cluster serves no prompt.
    head      of the closed form, that had a say: "quick" or "whole"; None if none had.
    """

    scores: tuple[tuple[str, float], ...]
    cluster: str | None
    prompt: str | None
    tier: str
    degraded: bool
    head: Literal["quick", "whole"] | None = None


Job = Query | EmbedJob
Outcome = Answer | Description | ServiceError

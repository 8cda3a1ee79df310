"""What the engine is asked, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.embedding import Descriptor, Embedding
from service.errors import ServiceError


@dataclass(frozen=True)
class Query:
    """An image to be classified: resized uint8 [3, s, s], and its digest, which some partitions route by."""

    image: Tensor
    digest: str


@dataclass(frozen=True)
class EmbedJob:
    """An image to be taken in: resized uint8 [3, s, s]."""

    image: Tensor


@dataclass(frozen=True)
class Description:
    """What is recorded of a newcomer: embedding [dim] and descriptor [width], the same bits in whatever batch."""

    embedding: Embedding
    descriptor: Descriptor


@dataclass(frozen=True)
class Answer:
    """Labels with their probabilities, best first, and where they come from.

    tier      "prompt", "closed_form", or "fused" of both.
    cluster   of the prompt; without one, the image's own, if it has any.
    degraded  the image's own cluster serves no prompt.
    """

    scores: tuple[tuple[str, float], ...]
    cluster: str | None
    prompt: str | None
    tier: str
    degraded: bool


Job = Query | EmbedJob
Outcome = Answer | Description | ServiceError

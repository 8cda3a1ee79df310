"""Visual prompts: learned pixels added to every image of a cluster.

A prompt lives in the backbone's normalised input space, [3, s, s]. Only the pixels that its kind covers are learned
and stored, as `values` [3, covered pixels]; the rest is zero and stays zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.spec import PromptSpec

KINDS = ("padding", "none")


def covered_pixels(spec: PromptSpec, input_size: int) -> Tensor:
    """Flat indices (row * s + column), int64 [m], of the pixels that a prompt covers.

    Raises ValueError for an unknown kind or a size that does not fit.
    """
    if spec.kind not in KINDS:
        raise ValueError(f"Unknown prompt kind {spec.kind!r}. Known: {', '.join(KINDS)}.")
    mask = torch.zeros((input_size, input_size), dtype=torch.bool)
    if spec.kind == "padding":
        if not 0 < 2 * spec.size < input_size:
            raise ValueError(f"A frame of {spec.size} pixels does not fit an image of {input_size} pixels.")
        mask[:] = True
        mask[spec.size : -spec.size, spec.size : -spec.size] = False
    return mask.flatten().nonzero().flatten()


def expand(values: Tensor, covered: Tensor, input_size: int) -> Tensor:
    """The prompt as an image [3, s, s], zero where nothing is learned; differentiable in `values` [3, m]."""
    flat = values.new_zeros((3, input_size * input_size))
    return flat.index_copy(1, covered, values).view(3, input_size, input_size)

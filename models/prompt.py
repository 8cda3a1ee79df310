"""Visual prompts: learned pixels added to every image of a cluster (Bahng et al., arXiv 2203.17274).

A prompt lives in the backbone's normalised input space, [3, s, s]. Only the pixels that its kind covers are learned
and stored, as `values` [3, covered pixels]; the rest is zero and stays zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.backbone import Backbone
from models.determinism import generator
from models.spec import FEATURE, PromptSpec

KINDS = ("padding", "fixed_patch", "random_patch", "none")


def values_shape(spec: PromptSpec, backbone: Backbone) -> tuple[int, int]:
    """Of the learned values of a prompt: [3, m] pixels; [2, width] scales and shifts of a feature prompt.

    Raises ValueError for a prompt that does not suit the backbone.
    """
    if spec.kind == FEATURE:
        return 2, backbone.cuts.at(spec.cut).width
    return 3, len(covered_pixels(spec, backbone.input_size))


def covered_pixels(spec: PromptSpec, input_size: int) -> Tensor:
    """Flat indices (row * s + column), int64 [m], of the pixels that a prompt covers when it is served.

    A `random_patch` is served at one public place, drawn from its size. (The reference code draws another place for
    every answer, so that the same image is answered differently from one moment to the next.)

    Raises ValueError for an unknown kind or a size that does not fit.
    """
    if spec.kind == "random_patch":
        return _patch(spec.size, input_size, generator("oubli/patch/1", str(spec.size), str(input_size)))
    if spec.kind == "fixed_patch":
        return _patch(spec.size, input_size, None)
    if spec.kind not in KINDS:
        raise ValueError(f"Unknown prompt kind {spec.kind!r}. Known: {', '.join(KINDS)}.")
    mask = torch.zeros((input_size, input_size), dtype=torch.bool)
    if spec.kind == "padding":
        if not 0 < 2 * spec.size < input_size:
            raise ValueError(f"A frame of {spec.size} pixels does not fit an image of {input_size} pixels.")
        mask[:] = True
        mask[spec.size : -spec.size, spec.size : -spec.size] = False
    return mask.flatten().nonzero().flatten()


def trained_pixels(spec: PromptSpec, input_size: int, *batch: str) -> Tensor:
    """The pixels that a prompt covers in one batch of its training; a `random_patch` is at another place in each."""
    if spec.kind == "random_patch":
        return _patch(spec.size, input_size, generator("oubli/patch/1", *batch))
    return covered_pixels(spec, input_size)


def _patch(size: int, input_size: int, random: torch.Generator | None) -> Tensor:
    """A square of `size` pixels, in the upper left corner or anywhere."""
    if not 0 < size <= input_size:
        raise ValueError(f"A patch of {size} pixels does not fit an image of {input_size} pixels.")
    top, left = (0, 0)
    if random is not None:
        top, left = torch.randint(0, input_size - size + 1, (2,), generator=random).tolist()
    rows, columns = torch.arange(top, top + size), torch.arange(left, left + size)
    return (rows[:, None] * input_size + columns).flatten()


def expand(values: Tensor, covered: Tensor, input_size: int) -> Tensor:
    """The prompt as an image [3, s, s], zero where nothing is learned; differentiable in `values` [3, m]."""
    flat = values.new_zeros((3, input_size * input_size))
    return flat.index_copy(1, covered, values).view(3, input_size, input_size)

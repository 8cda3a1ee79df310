"""A frame of learned pixels, and nothing inside it."""

import pytest
import torch

from models.prompt import covered_pixels, expand
from models.spec import PromptSpec


def test_a_padding_prompt_covers_the_frame_and_nothing_else():
    image = expand(torch.ones((3, 24)), covered_pixels(PromptSpec(size=2), 5), 5)
    assert image.shape == (3, 5, 5)
    assert image.sum() == 3 * 24
    assert (image[:, 2, 2] == 0).all()


def test_no_prompt_covers_nothing():
    covered = covered_pixels(PromptSpec(kind="none"), 5)
    assert (expand(torch.zeros((3, len(covered))), covered, 5) == 0).all()


def test_every_learned_pixel_is_learned_in_its_own_place():
    covered = covered_pixels(PromptSpec(size=1), 4)
    values = torch.rand((3, len(covered)), requires_grad=True)
    image = expand(values, covered, 4)
    assert torch.equal(image.flatten(1)[:, covered], values)
    image.sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))


@pytest.mark.parametrize("size", [0, -1, 3, 9])
def test_a_frame_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="does not fit"):
        covered_pixels(PromptSpec(size=size), 6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'halo'.*Known: padding, none"):
        covered_pixels(PromptSpec(kind="halo"), 6)

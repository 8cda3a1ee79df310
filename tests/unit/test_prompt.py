"""A frame or a square of learned pixels, and nothing beside it."""

import pytest
import torch

from models.prompt import covered_pixels, expand, trained_pixels
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


def test_a_fixed_patch_is_the_upper_left_corner():
    image = expand(torch.ones((3, 4)), covered_pixels(PromptSpec(kind="fixed_patch", size=2), 5), 5)
    assert image.sum() == 3 * 4
    assert (image[:, :2, :2] == 1).all()


def test_a_random_patch_is_served_in_one_place_and_trained_in_many():
    spec = PromptSpec(kind="random_patch", size=2)
    served = covered_pixels(spec, 8)
    assert torch.equal(served, covered_pixels(spec, 8))
    places = [trained_pixels(spec, 8, "key", str(batch)) for batch in range(50)]
    assert len({tuple(place.tolist()) for place in places}) > 10
    for place in (served, *places):
        top, left = divmod(int(place[0]), 8)
        assert place.tolist() == [row * 8 + column for row in (top, top + 1) for column in (left, left + 1)]
        assert left <= 6
    assert torch.equal(places[7], trained_pixels(spec, 8, "key", "7"))


@pytest.mark.parametrize("kind", ["padding", "fixed_patch", "none"])
def test_other_kinds_are_trained_where_they_are_served(kind):
    spec = PromptSpec(kind=kind, size=2)
    assert torch.equal(trained_pixels(spec, 8, "key", "1"), covered_pixels(spec, 8))


@pytest.mark.parametrize("kind", ["fixed_patch", "random_patch"])
@pytest.mark.parametrize("size", [0, -1, 7])
def test_a_patch_that_does_not_fit_is_refused(kind, size):
    with pytest.raises(ValueError, match="does not fit"):
        covered_pixels(PromptSpec(kind=kind, size=size), 6)


@pytest.mark.parametrize("kind", ["fixed_patch", "random_patch"])
def test_a_patch_may_cover_the_whole_image(kind):
    assert covered_pixels(PromptSpec(kind=kind, size=6), 6).tolist() == list(range(36))


@pytest.mark.parametrize("size", [0, -1, 3, 9])
def test_a_frame_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="does not fit"):
        covered_pixels(PromptSpec(size=size), 6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'halo'.*Known: padding, fixed_patch, random_patch, none"):
        covered_pixels(PromptSpec(kind="halo"), 6)

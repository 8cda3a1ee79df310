"""A recorded forward pass is the eager one, to the bit, or it is not used."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from models.recording import Recording

Outputs = tuple[Tensor, ...]


def shapes(*sizes: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.rand((size, 3, 16, 16), generator=random) for size in sizes]


def test_what_is_recorded_gives_the_bits_of_the_eager_pass_in_every_shape(tiny):
    for images in shapes(1, 2, 16, 2):
        with torch.inference_mode():
            features, depths = tiny.features_by_depth(images)
            (plain,) = tiny.inference(images)
        recorded, *means = tiny.description(images)
        assert torch.equal(recorded, features)
        assert torch.equal(plain, tiny.features_folded(images))
        assert all(torch.equal(a, b) for a, b in zip(means, depths, strict=True))


def test_the_network_is_no_longer_called_once_it_is_recorded():
    calls = []

    def double(images: Tensor) -> Outputs:
        calls.append(len(images))
        return (images * 2,)

    recording = Recording(double)
    (images,) = shapes(2)
    for _ in range(3):
        assert torch.equal(recording(images)[0], images * 2)
    assert calls == [2, 2]  # to be recorded, and to be compared with


def test_what_cannot_be_recorded_is_called_as_it_is(caplog):
    def stubborn(images: Tensor) -> Outputs:
        if torch.jit.is_tracing():
            raise RuntimeError("not me")
        return (images + 1,)

    (images,) = shapes(2)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(Recording(stubborn)(images)[0], images + 1)
    assert "cannot be recorded (not me)" in caplog.text


def test_a_recording_with_other_bits_is_not_used(caplog):
    def fickle(images: Tensor) -> Outputs:
        return (images + (1.0 if torch.jit.is_tracing() else 2.0),)

    recording = Recording(fickle)
    (images,) = shapes(2)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(recording(images)[0], images + 2)
    assert "other bits" in caplog.text


def test_threads_that_come_at_once_record_once_and_are_told_the_same():
    calls = []

    def slow(images: Tensor) -> Outputs:
        calls.append(1)
        time.sleep(0.05)
        return (images.sum((1, 2, 3)),)

    recording = Recording(slow)
    (images,) = shapes(4)
    with ThreadPoolExecutor(8) as threads:
        answers = [future.result()[0] for future in [threads.submit(recording, images) for _ in range(8)]]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(calls) == 2


@pytest.mark.parametrize("rounds", [20])
def test_threads_that_look_into_the_network_at_once_see_their_own_images(rounds):
    """Means by depth are noted by hooks, which all threads share."""
    from models.backbone import load_backbone

    backbone = load_backbone("efficientnet-lite0", input_size=32)
    batches = [images.repeat(1, 1, 2, 2) for images in shapes(1, 2)]
    expected = [backbone.features_by_depth(images)[1] for images in batches]

    def look(index: int) -> bool:
        depths = backbone.features_by_depth(batches[index])[1]
        return len(depths) == len(expected[index]) and all(
            torch.equal(a, b) for a, b in zip(depths, expected[index], strict=True)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(look, [0, 1] * rounds))

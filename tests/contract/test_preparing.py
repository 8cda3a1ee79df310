"""Images are prepared side by side, a few at once, and each as if it were alone."""

import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from models.image import ImageLimits, Pixels
from service.api import preparing
from service.api.preparing import SHARE, THREADS, Prepared, Preparer
from service.core import intake, sample_file
from service.errors import Invalid, ServiceError, UnsupportedMedia
from tests.world import World, sqlite_only

pytestmark = sqlite_only
COUNTS = [0, 1, 2, THREADS, SHARE + 1, THREADS * SHARE * 2 + 3]


def file(index: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 7, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def preparer(world: World) -> Iterator[Preparer]:
    made = Preparer(world.context)
    yield made
    made.stop()


@pytest.mark.parametrize("count", COUNTS)
def test_each_is_prepared_as_if_alone_and_in_order(world: World, preparer: Preparer, count: int) -> None:
    files = [file(index, ("PNG", "JPEG", "WEBP")[index % 3]) for index in range(count)]
    found = preparer.prepare_now(files)
    assert len(found) == count
    for data, result in zip(files, found, strict=True):
        alone = intake.read_picture(world.context, data)
        assert isinstance(result, Prepared)
        assert result.picture.digest == alone.digest
        assert np.array_equal(result.picture.pixels, alone.pixels)


def test_what_is_served_and_what_is_trained_on_are_the_same_pixels(world: World, preparer: Preparer) -> None:
    (found,) = preparer.prepare_now([file(0, "JPEG")])
    assert isinstance(found, Prepared)
    nothing = np.zeros(world.context.backbone.dim, np.float32)
    stored = sample_file.decode(sample_file.encode(found.picture.pixels, nothing, nothing), digest=found.picture.digest)
    trained_on = world.context.backbone.preprocessing.resize(stored.pixels)
    assert torch.equal(found.image, trained_on)


def test_a_bad_file_fails_alone(preparer: Preparer) -> None:
    files = [file(0), b"no image", file(1), file(2)[:60], file(3)]
    found = preparer.prepare_now(files)
    assert [type(result) for result in found] == [Prepared, UnsupportedMedia, Prepared, Invalid, Prepared]
    assert all(isinstance(result, Prepared | ServiceError) for result in found)


def test_no_more_are_decoded_at_once_than_there_are_threads(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lock, now, most = intake.decode, threading.Lock(), [0], [0]

    def watched(data: bytes, limits: ImageLimits) -> Pixels:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        try:
            return real(data, limits)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(intake, "decode", watched)
    files = [file(index) for index in range(4)]
    callers = [threading.Thread(target=preparer.prepare_now, args=(files,)) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most[0] == preparing.THREADS  # all of them, and not one more

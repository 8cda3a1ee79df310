"""Images are prepared side by side, a few at once, and each as if it were alone."""

import asyncio
import io
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.image import Pixels
from models.spec import ImageLimits
from service.api import preparing
from service.api.preparing import SHARE, THREADS, Prepared, Preparer
from service.core import intake, sample_file
from service.errors import Busy, Invalid, ServiceError, Unavailable, UnsupportedMedia
from service.serving.batcher import Batcher, Limits
from tests.world import World, sqlite_only

pytestmark = sqlite_only
COUNTS = [0, 1, 2, THREADS, SHARE + 1, THREADS * SHARE * 2 + 3]


def file(index: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 7, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


Found = list[Prepared | ServiceError]


def prepare(world: World, *requests: Sequence[bytes], deadline: float = 60.0) -> list[Found]:
    """Each request's files, all at once, by a batcher that computes nothing."""

    async def scene() -> list[Found]:
        with ThreadPoolExecutor(max_workers=1) as lane:
            limits = Limits(max_batch=16, max_queue=10_000, deadline=deadline)
            batcher: Batcher[Any, Any] = Batcher(list, limits, executor=lane)
            batcher.start()
            preparer = Preparer(world.context, batcher)
            found = await asyncio.gather(*(preparer.outcomes(files, lambda ready: ready) for files in requests))  # type: ignore[arg-type,return-value]
            await batcher.stop()
            preparer.stop()
        assert all(one[0] is one[1] for each in found for one in each if isinstance(one, tuple))
        return [[one[0] if isinstance(one, tuple) else one for one in each] for each in found]

    return asyncio.run(scene())


@pytest.mark.parametrize("count", COUNTS)
def test_each_is_prepared_as_if_alone_and_in_order(world: World, count: int) -> None:
    files = [file(index, ("PNG", "JPEG", "WEBP")[index % 3]) for index in range(count)]
    (found,) = prepare(world, files)
    assert len(found) == count
    for data, result in zip(files, found, strict=True):
        alone = intake.read_picture(world.context, data)
        assert isinstance(result, Prepared)
        assert result.picture.digest == alone.digest
        assert np.array_equal(result.picture.pixels, alone.pixels)


def test_what_is_served_and_what_is_trained_on_are_the_same_pixels(world: World) -> None:
    ((found,),) = prepare(world, [file(0, "JPEG")])
    assert isinstance(found, Prepared)
    nothing = np.zeros(world.context.backbone.dim, np.float32)
    stored = sample_file.decode(sample_file.encode(found.picture.pixels, nothing, nothing), digest=found.picture.digest)
    trained_on = world.context.backbone.preprocessing.resize(stored.pixels)
    assert torch.equal(found.image, trained_on)


def test_a_bad_file_fails_alone(world: World) -> None:
    files = [file(0), b"no image", file(1), file(2)[:60], file(3)]
    (found,) = prepare(world, files)
    assert [type(result) for result in found] == [Prepared, UnsupportedMedia, Prepared, Invalid, Prepared]
    assert all(isinstance(result, Prepared | ServiceError) for result in found)


def test_no_more_are_decoded_at_once_than_there_are_threads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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
    prepare(world, *[files] * 12)
    assert most[0] == preparing.THREADS  # all of them, and not one more


def test_a_file_that_waited_too_long_is_told_so_and_a_bad_one_what_is_wrong_with_it(world: World) -> None:
    (found,) = prepare(world, [file(0), b"no image", file(1)], deadline=-1.0)
    assert [type(result) for result in found] == [Unavailable, UnsupportedMedia, Unavailable]


def test_more_files_than_the_queue_has_room_for_are_refused_before_any_is_decoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Busy):
        prepare(world, [file(0)] * 10_001)

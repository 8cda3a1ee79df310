"""Images are prepared side by side, a few at once, and each as if it were alone."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.image import decode, pixel_digest
from service.core import sample_file
from service.decoding.decoders import SHARE, DecodeResult, Decoders
from service.decoding.protocol import DecodedImage
from service.errors import Busy, Invalid, ServiceError, TooLarge, Unavailable, UnsupportedMedia
from service.serving.batcher import Batcher, Limits
from service.serving.preprocess import AT_ONCE, Preprocessor, rules
from tests.odd_files import slow
from tests.world import MakeWorld, World, settings, sqlite_only

pytestmark = sqlite_only
COUNTS = [0, 1, 2, AT_ONCE, SHARE + 1, AT_ONCE * SHARE * 2 + 3]


def file(index: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 7, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


Found = list[DecodeResult]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoders]:
    made = Decoders(rules(settings(tmp_path_factory.mktemp("unused")), 16), most=AT_ONCE)
    yield made
    made.stop()


def prepare(world: World, decoders: Decoders, *requests: Sequence[bytes], deadline: float = 60.0) -> list[Found]:
    """Each request's files, all at once, by a batcher that computes nothing."""

    async def scene() -> list[Found]:
        with ThreadPoolExecutor(max_workers=1) as lane:
            limits = Limits(max_batch=16, max_queue=10_000, deadline=deadline)
            batcher: Batcher[Any, Any] = Batcher(list, limits, executor=lane)
            batcher.start()
            preprocessor = Preprocessor(world.context, batcher, decoders)
            found = await asyncio.gather(*(preprocessor.outcomes(files, lambda ready: ready) for files in requests))  # type: ignore[arg-type,return-value]
            await batcher.stop()
        assert all(one[0] is one[1] for each in found for one in each if isinstance(one, tuple))
        return [[one[0] if isinstance(one, tuple) else one for one in each] for each in found]

    return asyncio.run(scene())


@pytest.mark.parametrize("count", COUNTS)
def test_each_is_prepared_as_if_alone_and_in_order(world: World, decoders: Decoders, count: int) -> None:
    files = [file(index, ("PNG", "JPEG", "WEBP")[index % 3]) for index in range(count)]
    (found,) = prepare(world, decoders, files)
    assert len(found) == count
    for data, result in zip(files, found, strict=True):
        pixels = decode(data)
        assert isinstance(result, DecodedImage)
        assert result.digest == pixel_digest(pixels)
        assert np.array_equal(result.pixels, pixels)


def test_what_is_served_and_what_is_trained_on_are_the_same_pixels(world: World, decoders: Decoders) -> None:
    ((found,),) = prepare(world, decoders, [file(0, "JPEG")])
    assert isinstance(found, DecodedImage)
    nothing = np.zeros(world.context.backbone.dim, np.float32)
    data = sample_file.encode(found.pixels, nothing, nothing.astype(np.int16), kind="")
    stored = sample_file.decode(data, digest=found.digest)
    trained_on = world.context.backbone.preprocessing.resize(stored.pixels)
    assert torch.equal(torch.from_numpy(found.resized), trained_on)


def test_a_bad_file_fails_alone(world: World, decoders: Decoders) -> None:
    files = [file(0), b"no image", file(1), file(2)[:60], file(3)]
    (found,) = prepare(world, decoders, files)
    assert [type(result) for result in found] == [DecodedImage, UnsupportedMedia, DecodedImage, Invalid, DecodedImage]
    assert all(isinstance(result, DecodedImage | ServiceError) for result in found)


def test_a_file_that_is_too_large_is_refused_alone_and_unseen(make_world: MakeWorld, decoders: Decoders) -> None:
    world = make_world(intake={"max_bytes": 5000})
    (found,) = prepare(world, decoders, [file(0), bytes(5001), file(1)])
    assert [type(result) for result in found] == [DecodedImage, TooLarge, DecodedImage]
    assert "5,000 bytes" in str(found[1])


def test_settings_say_what_is_accepted(make_world: MakeWorld) -> None:
    world = make_world(intake={"formats": " png,Plain_PPM", "max_pixels": 1000, "decode_seconds": 7.5})
    found = rules(world.context.settings, 16)
    assert found.limits.formats == ("PNG", "PLAIN_PPM")
    assert (found.limits.max_pixels, found.cpu_seconds, found.side) == (1000, 7.5, 16)
    assert found.memory < rules(settings(world.folder), 16).memory
    for wrong in ("PNG,PFM", " , "):
        with pytest.raises(ValueError, match="PLAIN_PPM"):
            make_world(intake={"formats": wrong})


def test_the_deadline_covers_the_decoding(make_world: MakeWorld, decoders: Decoders) -> None:
    world = make_world(serving={"deadline_seconds": 1.0})
    (found,) = prepare(world, decoders, [slow(3000)])
    assert [type(result) for result in found] == [Unavailable]


def test_a_file_that_waited_too_long_is_told_so_and_a_bad_one_what_is_wrong_with_it(
    world: World, decoders: Decoders
) -> None:
    (found,) = prepare(world, decoders, [file(0), b"no image", file(1)], deadline=-1.0)
    assert [type(result) for result in found] == [Unavailable, UnsupportedMedia, Unavailable]


def test_more_files_than_the_queue_has_room_for_are_refused_before_any_is_decoded(
    world: World, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(Busy):
        prepare(world, decoders, [file(0)] * 10_001)

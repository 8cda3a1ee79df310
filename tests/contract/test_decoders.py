"""Decoder processes keep to their budgets, replaced when they die, and never outlive the API."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
from PIL import Image

from models.image import decode, pixel_digest, register_heif, resized
from models.spec import KNOWN_FORMATS, ImageLimits
from service.decoding.decoders import DecodeResult, Decoders
from service.decoding.protocol import DecodedImage, Rules
from service.errors import Invalid, ServiceError, Unavailable, UnsupportedMedia
from tests.odd_files import LARGE_AVIF, LARGE_HEIC, SCENE, encoded, scans, slow

RULES = Rules(ImageLimits(), side=16, cpu_seconds=20.0, memory=1 << 30)
GOOD = encoded(SCENE, "PNG")
MANY_SECONDS = slow(3000)  # of a processor's time
Found = TypeVar("Found")


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(RULES, most=2)
    yield made
    made.stop()


def results(decoders: Decoders, *requests: Sequence[bytes], seconds: float = 120.0) -> list[list[DecodeResult]]:
    """Of each request's files, all requests at once, each of a caller of its own."""

    async def one(number: int, files: Sequence[bytes]) -> list[DecodeResult]:
        found: dict[int, DecodeResult] = {}
        async with aclosing(decoders.decode(files, caller=str(number), seconds=seconds)) as parts:
            async for part in parts:
                assert not found.keys() & dict(part).keys()
                found |= dict(part)
        assert sorted(found) == list(range(len(files)))
        return [found[place] for place in range(len(files))]

    async def all_of_them() -> list[list[DecodeResult]]:
        return await asyncio.gather(*(one(number, files) for number, files in enumerate(requests)))

    return asyncio.run(all_of_them())


def until(check: Callable[[], Found]) -> Found:
    for _ in range(1200):
        if found := check():
            return found
        threading.Event().wait(0.05)
    raise AssertionError("never")


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_process_decodes_as_this_one_does(decoders: Decoders) -> None:
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)) for i in range(40)]
    register_heif()  # to write some; a decoder reads them by itself
    kinds = ("PNG", "JPEG", "WEBP", "HEIF", "AVIF")
    files = [encoded(picture, kinds[i % len(kinds)]) for i, picture in enumerate(pictures)]
    (found,) = results(decoders, files)
    for data, one in zip(files, found, strict=True):
        assert isinstance(one, DecodedImage)
        pixels = decode(data)
        assert np.array_equal(one.pixels, pixels)
        assert one.digest == pixel_digest(pixels)
        assert np.array_equal(one.resized, resized(pixels, 16))
        assert one.pixels.flags.writeable


def test_each_file_is_refused_for_its_own_fault(decoders: Decoders) -> None:
    files = [GOOD, b"", GOOD[:60], scans(200), encoded(Image.new("RGB", (1, 9)), "PNG"), b"P3\n2 2\n255\n", GOOD]
    (found,) = results(decoders, files)
    kinds = [type(one) for one in found]
    assert kinds == [DecodedImage, UnsupportedMedia, Invalid, Invalid, Invalid, UnsupportedMedia, DecodedImage]
    words = [one.detail for one in found if isinstance(one, ServiceError)]
    for word, text in zip(("empty", "damaged", "scans", "1 x 9", "PLAIN_PPM"), words, strict=True):
        assert word in text


def test_no_files_are_no_work(decoders: Decoders) -> None:
    assert results(decoders, []) == [[]]


# ---------------------------------------------------------------------------------------------------------- bounds


def test_an_image_that_takes_too_much_time_is_refused_and_its_neighbours_are_not() -> None:
    decoders = Decoders(replace(RULES, cpu_seconds=0.5), most=1)
    try:
        before = until(lambda: len(decoders.pids) == 2 and decoders.pids)
        (found,) = results(decoders, [GOOD, MANY_SECONDS[:20_000], GOOD, MANY_SECONDS, GOOD])
        assert [type(one) for one in found] == [DecodedImage, Invalid, DecodedImage, Invalid, DecodedImage]
        assert "0.5 s of a processor's time" in str(found[3])
        (found,) = results(decoders, [GOOD] * 20)
        assert all(isinstance(one, DecodedImage) for one in found)
        assert set(until(lambda: len(decoders.pids) == 2 and decoders.pids)) - set(before)
    finally:
        decoders.stop()


def test_python_s_own_loops_are_within_the_budget() -> None:
    limits = ImageLimits(formats=KNOWN_FORMATS)
    decoders = Decoders(replace(RULES, limits=limits, cpu_seconds=0.3), most=1)
    try:
        comments = b"P3\n2000 2000\n255\n" + b"#\n" * 4_000_000 + b"1 " * 1000
        (found,) = results(decoders, [comments])
        assert "0.3 s of a processor's time" in str(found[0])
    finally:
        decoders.stop()


def test_an_image_that_takes_too_much_memory_is_refused_and_its_neighbours_are_not() -> None:
    decoders = Decoders(replace(RULES, memory=50_000_000), most=1)
    try:
        large = encoded(Image.new("RGB", (5000, 5000)), "PNG")
        (found,) = results(decoders, [GOOD, large, GOOD])
        assert [type(one) for one in found] == [DecodedImage, Invalid, DecodedImage]
        assert "memory" in str(found[1])
        (pid, *_) = decoders.pids
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_AS)[0] < 10**9
    finally:
        decoders.stop()


@pytest.mark.parametrize("large", [LARGE_HEIC, LARGE_AVIF], ids=["HEIC", "AVIF"])
def test_heic_and_avif_are_within_the_bounds_too(large: bytes) -> None:
    """Libraries of C and C++, which start threads and ask for memory in their own ways."""
    for rules, words in (
        (replace(RULES, cpu_seconds=0.2), "0.2 s of a processor's time"),
        (replace(RULES, memory=50_000_000), ""),  # either library says in its own words that it has none left
    ):
        decoders = Decoders(rules, most=1)
        try:
            (found,) = results(decoders, [GOOD, large, GOOD])
            assert [type(one) for one in found] == [DecodedImage, Invalid, DecodedImage]
            assert words in str(found[1])
            (found,) = results(decoders, [GOOD] * 5)
            assert all(isinstance(one, DecodedImage) for one in found)
        finally:
            decoders.stop()


def test_a_process_has_no_tensors_no_secrets_and_writes_no_core(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, service.decoding.child; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    ).stdout.split()
    found = {name.partition(".")[0] for name in loaded}
    assert "PIL" in found
    assert not found & {"torch", "torchvision", "timm", "scipy", "faiss", "fastapi", "pydantic", "sqlalchemy"}
    monkeypatch.setenv("OUBLI_DATABASE_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fresh = Decoders(RULES, most=1)
    try:
        pid = until(lambda: fresh.pids)[0]
        until(lambda: psutil.Process(pid).cmdline()[1:2] == ["-m"])
        environment = psutil.Process(pid).environ()
        assert "PATH" in environment
        assert not any("secret" in value for value in environment.values())
        assert until(lambda: psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0))
    finally:
        fresh.stop()


# ---------------------------------------------------------------------------------------------------------- deaths


def busy(decoders: Decoders) -> int:
    """A process that has had a slow file in hand for a while."""
    return until(lambda: next((pid for pid in decoders.busy if sum(psutil.Process(pid).cpu_times()[:2]) > 0.1), 0))


def while_decoding(decoders: Decoders, files: Sequence[bytes], work: Callable[[], None]) -> list[DecodeResult]:
    """What became of the files, with something done meanwhile on another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    (found,) = results(decoders, files)
    thread.join()
    return found


def test_a_decoder_that_is_killed_is_replaced_and_its_files_lose_nothing(decoders: Decoders) -> None:
    idle = until(lambda: len(decoders.pids) == 3 and decoders.pids)
    for pid in idle:
        os.kill(pid, signal.SIGKILL)  # as the kernel does when memory runs out
    until(lambda: not any(is_alive(pid) for pid in idle))
    (found,) = results(decoders, [GOOD] * 10)
    assert all(isinstance(one, DecodedImage) for one in found)

    half_slow = slow(1100)
    found = while_decoding(
        decoders, [half_slow, GOOD], lambda: os.kill(until(lambda: decoders.busy)[0], signal.SIGSEGV)
    )
    assert all(isinstance(one, DecodedImage) for one in found)


def test_an_image_that_makes_decoders_crash_is_refused_and_its_neighbours_are_not(decoders: Decoders) -> None:
    def crash_twice() -> None:
        first = busy(decoders)
        os.kill(first, signal.SIGSEGV)
        second = until(lambda: next((pid for pid in decoders.busy if pid != first), 0))
        os.kill(second, signal.SIGABRT)

    found = while_decoding(decoders, [MANY_SECONDS], crash_twice)
    assert "crash" in str(found[0])
    (found,) = results(decoders, [GOOD] * 9)
    assert all(isinstance(one, DecodedImage) for one in found)


def test_when_the_client_has_gone_its_decoder_is_free_again(decoders: Decoders) -> None:
    async def scene() -> tuple[int, int]:
        parts = decoders.decode([MANY_SECONDS] * 30, caller="gone", seconds=600)
        first = asyncio.create_task(anext(parts))
        pids = [await asyncio.to_thread(busy, decoders)]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await parts.aclose()
        while decoders.busy:
            await asyncio.sleep(0.05)
        return pids[0], len(decoders.pids)

    pid, _ = asyncio.run(scene())
    assert not is_alive(pid)
    (found,) = results(decoders, [GOOD])
    assert isinstance(found[0], DecodedImage)


def test_what_waits_for_too_long_is_told_so_and_no_longer_decoded(decoders: Decoders) -> None:
    (found,) = results(decoders, [MANY_SECONDS, GOOD], seconds=1.0)
    assert isinstance(found[0], Unavailable)
    assert "waited for too long" in found[0].detail
    (found,) = results(decoders, [GOOD] * 3, seconds=-1.0)
    assert all(isinstance(one, Unavailable) for one in found)


def test_patience_is_for_the_whole_wait_or_for_each_part_of_it(decoders: Decoders) -> None:
    async def waited(*, seconds: float, renewed: bool) -> list[DecodeResult]:
        files = [slow(200)] * 16
        parts: AsyncIterator[list[tuple[int, DecodeResult]]]
        async with aclosing(decoders.decode(files, caller="me", seconds=seconds, renewed=renewed)) as parts:
            return [one async for part in parts for _, one in part]

    async def scene() -> tuple[list[DecodeResult], list[DecodeResult]]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        found = await waited(seconds=120, renewed=False)
        assert all(isinstance(one, DecodedImage) for one in found)
        half = (loop.time() - started) / 2
        return await waited(seconds=half, renewed=True), await waited(seconds=half / 8, renewed=False)

    renewed, whole = asyncio.run(scene())
    assert all(isinstance(one, DecodedImage) for one in renewed)
    assert any(isinstance(one, Unavailable) for one in whole)


def test_a_slow_request_leaves_a_decoder_to_others(decoders: Decoders) -> None:
    """A caller that sends nothing but slow pictures has two of three."""

    async def scene() -> DecodeResult:
        parts = decoders.decode([MANY_SECONDS] * 9, caller="slow", seconds=600)
        first = asyncio.create_task(anext(parts))
        await asyncio.to_thread(until, lambda: len(decoders.busy) == 2)
        async with aclosing(decoders.decode([GOOD], caller="other", seconds=60)) as others:
            ((_, found),) = await anext(others)
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await parts.aclose()
        return found

    assert isinstance(asyncio.run(scene()), DecodedImage)


# ------------------------------------------------------------------------------------------------------------- ends


def test_stopping_waits_for_no_image_and_leaves_nothing() -> None:
    decoders = Decoders(replace(RULES, cpu_seconds=600.0), most=2)
    pids: list[int] = []

    def stop() -> None:
        busy(decoders)
        pids.extend(decoders.pids)
        decoders.stop()

    found = while_decoding(decoders, [slow(3162)] * 4, stop)
    assert all(isinstance(one, Unavailable) and "shutting down" in one.detail for one in found)
    assert pids
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(Unavailable):
        results(decoders, [GOOD])
    decoders.stop()  # twice is no harm


_DOOMED = """
import asyncio, sys
from models.spec import ImageLimits
from service.decoding.decoders import Decoders
from service.decoding.protocol import Rules
from tests.odd_files import slow

async def main():
    decoders = Decoders(Rules(ImageLimits(), side=16, cpu_seconds=600.0, memory=1 << 30), most=1)
    async def tell():
        while not decoders.busy or len(decoders.pids) < 2:
            await asyncio.sleep(0.05)
        print(*decoders.pids, flush=True)
    telling = asyncio.create_task(tell())
    async for _ in decoders.decode([slow(7000)] * 3, caller="me", seconds=600):
        pass

asyncio.run(main())
"""


def test_decoders_end_with_an_api_that_is_killed() -> None:
    root = Path(__file__).parents[2]
    api = subprocess.Popen([sys.executable, "-c", _DOOMED], cwd=root, stdout=subprocess.PIPE, text=True)
    assert api.stdout is not None
    with api.stdout:
        pids = [int(pid) for pid in api.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    api.kill()
    api.wait()
    spent = 0.0  # of a processor's time, by a decoder whose picture takes half a minute of it
    while alive := [pid for pid in pids if is_alive(pid)]:
        with suppress(psutil.NoSuchProcess):
            spent = max(spent, *(sum(psutil.Process(pid).cpu_times()[:2]) for pid in alive), 0.0)
        assert spent < 6.0
        threading.Event().wait(0.02)


def is_ready_for_signals(pid: int) -> bool:
    """Whether the process ignores SIGINT and SIGTERM already."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    ignored = int(line.split()[1], 16)
    return all(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))


def test_a_terminal_s_and_a_supervisor_s_signals_do_not_end_a_decoder(decoders: Decoders) -> None:
    """They go to all processes at once, and the API still owes answers."""
    results(decoders, [GOOD])
    before = until(lambda: len(decoders.pids) == 3 and sorted(decoders.pids))
    results(decoders, *[[GOOD]] * 9)
    until(lambda: all(is_ready_for_signals(pid) for pid in before))  # one may just have been started
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    (found,) = results(decoders, [GOOD] * 9)
    assert all(isinstance(one, DecodedImage) for one in found)
    assert sorted(decoders.pids) == before

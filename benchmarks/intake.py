"""How fast `/samples/batch` takes images in, beside the backbone alone, and where the milliseconds go.

`oubli api` on embedded defaults without a worker: nothing trains meanwhile. All is durable when answered: each object
and its folder are flushed, and the registry has committed. The client is a process of its own on the same cores, so its
work is in the figures as well. The raw limit is `models.embedding.describe` of ready tensors in a loop, at the better
of one batch on all cores and one on each, measured in this process before and after every row while the server is idle:
a row's ratio is to the mean of these two, as a shared machine's speed changes within minutes.
"""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from benchmarks.images import Labelled, load
from benchmarks.sender import BOUNDARY, Job, body
from benchmarks.service_deletions import running_api
from models import determinism, memory
from models.backbone import Backbone, load_backbone
from models.embedding import describe
from models.image import Pixels, decode, pixel_digest
from service.core import intake, sample_file
from service.core.opening import open_context
from service.registry.engine import migrate
from service.settings import Settings

THREADS = 2
IN_FLIGHT = {64: (1, 2, 4), 256: (1, 2)}  # by images a request; together no more than the queue's 512
WARM = 64
PHOTOS = 64
PHOTO_SIDES = (1600, 1200)

Item = tuple[bytes, str, str]


def measure(images: int = 2048) -> dict[str, Any]:
    """images  PNGs sent for each row of the table."""
    memory.keep_freed()
    determinism.configure(threads=THREADS, device="cpu")
    plans = [(size, in_flight) for size, several in IN_FLIGHT.items() for in_flight in several]
    name, train, test = load(min(images * len(plans), 10_000), 2_000)
    supply = _items([*train, *test])
    warm, supply = supply[:WARM], supply[WARM:]
    images = min(images, len(supply) // len(plans))
    figures: dict[str, Any] = {"data": name, "steps_ms": _steps(supply[:256]), "rows": []}
    large = photos(train[:PHOTOS])
    figures["photo_bytes"] = int(np.mean([len(data) for data, _, _ in large]))
    sent = [("PNG 32 px", *plan, supply[i * images : (i + 1) * images]) for i, plan in enumerate(plans)]
    sent.append(("JPEG 1600 x 1200", 32, 2, large))
    backbone = load_backbone("efficientnet-lite0")
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as folder, running_api(Path(folder)) as (url, key):
        port = urlsplit(url).port or 0
        _send(port, key, 2, [warm])
        before = _raw(backbone)
        for kind, size, in_flight, chosen in sent:
            rate = _send(port, key, in_flight, [chosen[i : i + size] for i in range(0, len(chosen), size)])
            after = _raw(backbone)
            raw = (before + after) / 2
            row = {"kind": kind, "size": size, "in_flight": in_flight, "rate": rate, "raw": raw, "of_raw": rate / raw}
            figures["rows"].append(row)
            before = after
    return figures


def _items(chosen: Sequence[Labelled]) -> list[Item]:
    return [(image.png(), image.label, f"owner-{index % 97}") for index, image in enumerate(chosen)]


def photos(chosen: Sequence[Labelled]) -> list[Item]:
    """Of a camera's size and weight: enlarged, with grain."""
    random = np.random.default_rng(0)
    made = []
    for image in chosen:
        large = np.asarray(Image.fromarray(image.pixels).resize(PHOTO_SIDES, Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-8, 9, large.shape, dtype=np.int16)
        buffer = io.BytesIO()
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        made.append((buffer.getvalue(), image.label, "photographer"))
    return made


def _raw(backbone: Backbone, seconds: float = 4.0) -> float:
    """Images a second of the one pass alone, at its best: every core on one batch, or a batch on each core."""
    side = backbone.input_size
    ready = list(torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8))

    def loop(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            describe(backbone, ready)
            done += len(ready)
        return done

    rates = []
    for lanes in (1, THREADS):
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(THREADS // lanes,)) as pool:
            list(pool.map(lambda _: describe(backbone, ready), range(lanes)))  # warm
            started = time.perf_counter()
            done = sum(pool.map(loop, [started + seconds] * lanes))
            rates.append(done / (time.perf_counter() - started))
    return max(rates)


def _send(port: int, key: str, in_flight: int, requests: list[list[Item]]) -> float:
    """Images a second, all of them taken in."""
    job = pickle.dumps(Job(port, key, in_flight, requests))
    command = [sys.executable, "-m", "benchmarks.sender"]
    finished = subprocess.run(command, input=job, stdout=subprocess.PIPE, check=True)
    found = json.loads(finished.stdout)
    sent = sum(len(items) for items in requests)
    if found["taken"] < sent * 0.99:  # a few CIFAR images are copies of each other
        raise RuntimeError(f"Of {sent} images {found['taken']:.0f} were taken in.")
    return float(found["taken"] / found["seconds"])


def _steps(items: Sequence[Item]) -> dict[str, float]:
    """Milliseconds an image of each step, one after the other in this process, in a batch of these."""
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        found[name] = (time.perf_counter() - started) * 1000.0 / len(items)
        return result

    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        migrate(settings.database)
        context = open_context(settings)
        with closing(context.registry):
            data = body(list(items))
            timed("multipart", lambda: _parse(data))
            pictures = timed("decode + digest", lambda: [_picture(item[0]) for item in items])
            resize = context.backbone.preprocessing.resize
            tensors = timed("resize", lambda: [resize(pixels) for pixels, _ in pictures])
            describe(context.backbone, tensors[:16])
            vectors, descriptors = timed("describe (the raw limit)", lambda: describe(context.backbone, tensors))
            new_samples = [
                intake.NewSample(*picture, vector, descriptor, item[1], item[2])
                for picture, vector, descriptor, item in zip(pictures, vectors, descriptors, items, strict=True)
            ]
            kind = context.backbone.kind.name
            timed(
                "encode",
                lambda: [sample_file.encode(n.pixels, n.embedding, n.descriptor, kind=kind) for n in new_samples],
            )
            intake.take_in(context, new_samples[:1])
            timed("take in: locate, encode, store, record", lambda: intake.take_in(context, new_samples))
    return found


def _picture(data: bytes) -> tuple[Pixels, str]:
    pixels = decode(data)
    return pixels, pixel_digest(pixels)


def _parse(data: bytes) -> None:
    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(data), 65_536):
            yield data[start : start + 65_536]

    headers = Headers({"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
    asyncio.run(MultiPartParser(headers, stream()).parse())


def show(figures: dict[str, Any]) -> None:
    """Two tables."""
    table = Table("", "images a request", "in flight", "images/s", "raw one pass", "of raw", title="Intake")
    for row in figures["rows"]:
        rates = (f"{row['rate']:.0f}", f"{row['raw']:.0f}", f"{row['of_raw']:.0%}")
        table.add_row(row["kind"], str(row["size"]), str(row["in_flight"]), *rates)
    steps = Table("step", "ms an image", title="Where the milliseconds go (256 PNGs, one after the other)")
    for step, milliseconds in figures["steps_ms"].items():
        steps.add_row(step, f"{milliseconds:.3f}")
    for shown_table in (table, steps):
        Console().print(shown_table)

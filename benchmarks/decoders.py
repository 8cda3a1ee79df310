"""What decoding and resizing cost, by library: Pillow (ours), torchvision, OpenCV where it is installed.

Each turns the bytes of an upload into the uint8 [3, s, s] that the backbone is shown, on one thread as the threads that
prepare uploads do. `ours` is what the service calls: `models.image.decode` with all of its promises (limits checked
from the header, EXIF rotation, transparency, 16-bit, the shorter side reduced to `max_side`), and then
`Preprocessing.resize`. The others only decode and resize. How far each is from ours is in steps of 1 / 255: the picture
that is learned from is not the same in another library, so a change of library is a change of every embedding.

And what it costs that uploads are decoded in processes that can be bounded and killed (`service.decoding`, decision
0016), beside the threads of one process that they were decoded on before: digest and resized picture included, 64
files of one request, and one file after the other.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.io import decode_image
from torchvision.transforms import v2

from benchmarks.images import load
from benchmarks.intake import photos
from models.backbone import Preprocessing
from models.image import decode, pixel_digest
from service.decoding.decoders import SHARE, Decoders
from service.decoding.protocol import DecodedImage
from service.serving.preprocess import AT_ONCE, rules
from service.settings import Settings

SIDE = 96  # of the default backbone
ROUNDS = 3
resize = Preprocessing(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).resize
resize_torchvision = v2.Resize((SIDE, SIDE), v2.InterpolationMode.BICUBIC, antialias=True)

Way = Callable[[bytes], Tensor]


def ours(data: bytes) -> Tensor:
    """Pillow, with draft-mode decoding of large JPEGs."""
    return resize(decode(data))


def pillow(data: bytes) -> Tensor:
    """Without draft mode and without any of our checks."""
    return resize(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def torchvision(data: bytes) -> Tensor:
    """Both steps in torchvision."""
    image: Tensor = resize_torchvision(_decoded(data))
    return image


def torchvision_and_pillow(data: bytes) -> Tensor:
    """Its decoder, Pillow's resize."""
    return resize(_decoded(data).permute(1, 2, 0).contiguous().numpy())


def opencv(data: bytes) -> Tensor:
    """Reduced while decoding as ours; INTER_AREA, its only filter that looks at every pixel."""
    import cv2  # type: ignore[import-not-found]  # nobody but this line needs it

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    filter_ = cv2.INTER_AREA if min(picture.shape[:2]) > SIDE else cv2.INTER_CUBIC
    return torch.from_numpy(cv2.resize(picture, (SIDE, SIDE), interpolation=filter_).transpose(2, 0, 1).copy())


def _decoded(data: bytes) -> Tensor:
    pixels: Tensor = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode="RGB")
    return pixels


WAYS: dict[str, Way] = {
    "ours: Pillow, draft mode, all checks": ours,
    "Pillow alone": pillow,
    "torchvision v2": torchvision,
    "torchvision decodes, Pillow resizes": torchvision_and_pillow,
}


def measure(images: int = 64) -> dict[str, Any]:
    """images  how many of each kind."""
    torch.set_num_threads(1)
    ways = dict(WAYS)
    if importlib.util.find_spec("cv2"):
        ways["OpenCV"] = opencv
    name, chosen, _ = load(images, 0)
    kinds = {"PNG 32 px": [image.png() for image in chosen], "JPEG 1600 x 1200": [p for p, _, _ in photos(chosen)]}
    rows = []
    for kind, uploads in kinds.items():
        right = [ours(data) for data in uploads]
        for way, work in ways.items():
            milliseconds = min(_milliseconds(work, uploads) for _ in range(ROUNDS))
            apart = [(work(data).int() - mine.int()).abs() for data, mine in zip(uploads, right, strict=True)]
            mean, most = float(np.mean([a.float().mean() for a in apart])), max(int(a.max()) for a in apart)
            rows.append({"kind": kind, "way": way, "ms": milliseconds, "mean_apart": mean, "most_apart": most})
    return {"data": name, "images": images, "rows": rows, "processes": measure_processes(kinds)}


def _milliseconds(work: Way, uploads: list[bytes]) -> float:
    started = time.perf_counter()
    for data in uploads:
        work(data)
    return (time.perf_counter() - started) * 1000.0 / len(uploads)


Everything = Callable[[list[bytes]], object]


def _in_threads(pool: ThreadPoolExecutor) -> Everything:
    """As it was before there were decoder processes."""

    def prepare(files: Sequence[bytes]) -> list[Any]:
        pictures = [decode(data) for data in files]
        return [(pixels, pixel_digest(pixels), resize(pixels)) for pixels in pictures]

    def work(files: list[bytes]) -> object:
        share = max(1, min(SHARE, -(-len(files) // AT_ONCE)))
        return list(pool.map(prepare, [files[at : at + share] for at in range(0, len(files), share)]))

    return work


def _in_processes(decoders: Decoders, loop: asyncio.AbstractEventLoop) -> Everything:
    """As uploads are decoded."""

    async def all_of(files: list[bytes]) -> list[Any]:
        async with aclosing(decoders.decode(files, caller="", seconds=600)) as parts:
            return [
                torch.from_numpy(one.resized)
                async for part in parts
                for _, one in part
                if isinstance(one, DecodedImage)
            ]

    return lambda files: loop.run_until_complete(all_of(files))


def measure_processes(kinds: dict[str, list[bytes]]) -> list[dict[str, Any]]:
    """Milliseconds an image, the best of some rounds; rounds of the two ways take turns."""
    rows = []
    pool, decoders = ThreadPoolExecutor(AT_ONCE), Decoders(rules(Settings(), SIDE), most=AT_ONCE)
    with pool, closing(asyncio.new_event_loop()) as loop:
        ways = {"threads": _in_threads(pool), "processes": _in_processes(decoders, loop)}
        for kind, uploads in kinds.items():
            for case, requests in (("64 in one request", [uploads]), ("one by one", [[one] for one in uploads])):
                best = dict.fromkeys(ways, float("inf"))
                for _ in range(ROUNDS + 2):
                    for way, work in ways.items():
                        started = time.perf_counter()
                        for files in requests:
                            work(files)
                        best[way] = min(best[way], (time.perf_counter() - started) * 1000.0 / len(uploads))
                rows.append({"kind": kind, "case": case, **best})
        decoders.stop()
    return rows


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    _show_libraries(figures)
    title = f"Decoded, digested and resized by {AT_ONCE} threads or as many processes, the best of {ROUNDS + 2} rounds"
    table = Table("", "", "threads: ms an image", "processes", title=title)
    for row in figures["processes"]:
        table.add_row(row["kind"], row["case"], f"{row['threads']:.2f}", f"{row['processes']:.2f}")
    Console().print(table)


def _show_libraries(figures: dict[str, Any]) -> None:
    title = f"From bytes to {SIDE} x {SIDE} pixels, one thread, the best of {ROUNDS} rounds of {figures['images']}"
    table = Table("", "", "ms an image", "apart from ours: mean", "most", title=title)
    for row in figures["rows"]:
        apart = (f"{row['mean_apart']:.2f}", str(row["most_apart"]))
        table.add_row(row["kind"], row["way"], f"{row['ms']:.2f}", *apart)
    Console().print(table)

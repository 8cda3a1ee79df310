"""Files made ready for the backbone, off the event loop: one pool of threads for predictions and intake alike.

As many are decoded at once as there are threads, whoever sent them: a legal image can take 750 MB while it is decoded
(50 megapixels with transparency), and forty at once would be the process's end. Pillow lets other threads run while it
decodes and resizes. What becomes of one file depends on nothing else in its request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from service.core.context import Context
from service.core.intake import Picture, read_picture
from service.errors import ServiceError

THREADS = min(8, os.cpu_count() or 1)
SHARE = 16  # small files that one thread takes at a time: handing over costs as much as decoding one


@dataclass(frozen=True)
class Prepared:
    """A picture, and the same at the backbone's size: uint8 [3, s, s]."""

    picture: Picture
    image: Tensor


Result = Prepared | ServiceError


class Preparer:
    """Decodes and resizes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prepare")

    async def prepare(self, files: Sequence[bytes]) -> list[Result]:
        """Each prepared, or why not, in order."""
        parts = await asyncio.gather(*map(asyncio.wrap_future, self._begin(files)))
        return [result for part in parts for result in part]

    def prepare_now(self, files: Sequence[bytes]) -> list[Result]:
        """The same, for a thread that can wait."""
        return [result for future in self._begin(files) for result in future.result()]

    def stop(self) -> None:
        """Once nobody asks any more."""
        self._pool.shutdown(wait=True)

    def _begin(self, files: Sequence[bytes]) -> list[Future[list[Result]]]:
        share = max(1, min(SHARE, -(-len(files) // THREADS)))
        shares = [files[start : start + share] for start in range(0, len(files), share)]
        return [self._pool.submit(self._prepare, part) for part in shares]

    def _prepare(self, files: Sequence[bytes]) -> list[Result]:
        return [self._prepare_one(data) for data in files]

    def _prepare_one(self, data: bytes) -> Result:
        try:
            picture = read_picture(self._context, data)
        except ServiceError as error:
            return error
        return Prepared(picture, self._context.backbone.preprocessing.resize(picture.pixels))

"""Files made ready for the backbone, off the event loop: one pool of threads for predictions and intake alike.

As many are decoded at once as there are threads, whoever sent them: a legal image can take 750 MB while it is decoded
(50 megapixels with transparency), and forty at once would be the process's end. Pillow lets other threads run while it
decodes and resizes. What becomes of one file depends on nothing else in its request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from service.core.context import Context
from service.core.intake import Picture, read_picture
from service.errors import ServiceError
from service.serving.batcher import Announcement, Batcher
from service.serving.jobs import Job, Outcome

THREADS = min(8, os.cpu_count() or 1)
SHARE = 16  # small files that one thread takes at a time: handing over costs as much as decoding one


@dataclass(frozen=True)
class Prepared:
    """A picture, and the same at the backbone's size: uint8 [3, s, s]."""

    picture: Picture
    image: Tensor


Result = Prepared | ServiceError


class Preparer:
    """Decodes, resizes, and hands on to the batcher what is ready, while the rest of a request is being decoded."""

    def __init__(self, context: Context, batcher: Batcher[Job, Outcome]) -> None:
        self._context = context
        self._batcher = batcher
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prepare")

    async def outcomes(
        self, files: Sequence[bytes], job: Callable[[Prepared], Job]
    ) -> list[tuple[Prepared, Outcome] | ServiceError]:
        """What came of each file, or why nothing did, in order. Raises Busy if the queue has not room for them all."""
        with self._batcher.expect(len(files)) as announcement:
            parts = await asyncio.gather(*(self._part(announcement, part, job) for part in self._begin(files)))
        return [found for part in parts for found in part]

    async def _part(
        self, announcement: Announcement[Job, Outcome], part: Future[list[Result]], job: Callable[[Prepared], Job]
    ) -> list[tuple[Prepared, Outcome] | ServiceError]:
        results = await asyncio.wrap_future(part)
        jobs = [job(result) for result in results if isinstance(result, Prepared)]
        try:
            outcomes = iter(await announcement.submit(jobs))
        except ServiceError as error:
            return [error if isinstance(result, Prepared) else result for result in results]
        return [(result, next(outcomes)) if isinstance(result, Prepared) else result for result in results]

    def stop(self) -> None:
        """Once nobody asks any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

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

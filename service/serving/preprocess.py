"""From uploaded files to the engine's outcomes, for predictions and intake alike: decoded by processes, then batched.

One caller's files are decoded by as many processes at once as there are cores, and one more process is left for other
callers; each file in bounded time and memory (`service.decoding`). The outcome of a file depends on nothing else in its
request. When the client has disconnected, its files are dropped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from service.core.context import Context
from service.decoding.decoders import DecodeResult, Decoders
from service.decoding.protocol import DecodedImage, Rules
from service.decoding.turns import Replies
from service.errors import ServiceError, TooLarge, Unavailable
from service.serving.batcher import Announcement, Batcher
from service.serving.jobs import Job, Outcome
from service.settings import Settings

AT_ONCE = min(8, os.cpu_count() or 1)  # decoder processes that one caller can keep busy
BYTES_A_PIXEL = 24  # Pillow at its most: an image with transparency and a colour profile, its copies and their bands
BYTES_BESIDE = 1 << 28  # whatever the size of the picture: the file, tables, a decoder's own buffers

Preprocessed = tuple[DecodedImage, Outcome] | ServiceError


def rules(settings: Settings, side: int) -> Rules:
    """The limits that every decoder process works under; `side` is the backbone's input, in pixels."""
    intake = settings.intake
    memory = BYTES_A_PIXEL * intake.max_pixels + BYTES_BESIDE + 2 * intake.max_bytes
    return Rules(intake.limits(), side, intake.decode_seconds, memory, settings.serving.nice)


class Preprocessor:
    """Decodes files, and hands each image to the batcher while others of its request are still being decoded."""

    def __init__(self, context: Context, batcher: Batcher[Job, Outcome], decoders: Decoders) -> None:
        self._limit = context.settings.intake.max_bytes
        self._patience = context.settings.serving.deadline_seconds
        self._batcher = batcher
        self._decoders = decoders

    async def outcomes(
        self, files: Sequence[bytes], job: Callable[[DecodedImage], Job], *, caller: str = "", renewed: bool = False
    ) -> list[Preprocessed]:
        """The image and the outcome of each file, or why there is none, in order. Raises Busy if the queue is too full.

        job      what the engine is asked about each image.
        caller   takes turns with other callers.
        renewed  `serving.deadline_seconds` is the longest wait for the next image, not for all of them: a client that
                 sends hundreds of samples expects to wait.
        """
        with self._batcher.expect(len(files), caller=caller) as announcement:
            since = time.monotonic()
            tasks: list[asyncio.Task[list[tuple[int, Preprocessed]]]] = []
            try:
                async with aclosing(self._parts(files, caller=caller, renewed=renewed)) as parts:
                    async for part in parts:
                        work = self._submit(announcement, part, job, time.monotonic() if renewed else since)
                        tasks.append(asyncio.create_task(work))
                found = dict(pair for pairs in await asyncio.gather(*tasks) for pair in pairs)
            finally:
                for task in tasks:
                    task.cancel()  # of no effect on those that are done
        return [found[place] for place in range(len(files))]

    async def _parts(
        self, files: Sequence[bytes], *, caller: str, renewed: bool
    ) -> AsyncGenerator[Replies[DecodeResult], None]:
        """Decoded files with their places, as soon as they are decoded."""
        sound = [place for place, data in enumerate(files) if len(data) <= self._limit]
        error = TooLarge(f"The file is larger than {self._limit:,} bytes.")
        if too_large := sorted({*range(len(files))} - {*sound}):
            yield [(place, error) for place in too_large]
        decoded = self._decoders.decode(
            [files[place] for place in sound], caller=caller, seconds=self._patience, renewed=renewed
        )
        async with aclosing(decoded):
            async for part in decoded:
                yield [(sound[place], found) for place, found in part]

    async def _submit(
        self,
        announcement: Announcement[Job, Outcome],
        part: Replies[DecodeResult],
        job: Callable[[DecodedImage], Job],
        since: float,
    ) -> list[tuple[int, Preprocessed]]:
        self._batcher.late += sum(isinstance(one, Unavailable) for _, one in part)
        jobs = [job(one) for _, one in part if isinstance(one, DecodedImage)]
        try:
            outcomes = iter(await announcement.submit(jobs, since=since))
        except ServiceError as error:
            return [(place, error if isinstance(one, DecodedImage) else one) for place, one in part]
        return [(place, (one, next(outcomes)) if isinstance(one, DecodedImage) else one) for place, one in part]

    def stop(self) -> None:
        """Stop decoding at once; waiting requests are answered with Unavailable."""
        self._decoders.stop()

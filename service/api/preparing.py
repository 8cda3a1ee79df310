"""Files made ready for the backbone, for predictions and intake alike: decoded by processes, handed on to the batcher.

As many are decoded at once as there are cores, whoever sent them, and one of somebody else's; each in bounded time and
memory (`service.decoding`). What becomes of one file depends on nothing else in its request. When the client has gone,
what it sent is dropped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import torch
from fastapi import Request
from torch import Tensor

from service.core.context import Context
from service.core.intake import Picture
from service.decoding.decoders import Decoders
from service.decoding.protocol import Decoded, Rules
from service.decoding.turns import Part
from service.errors import ClientGone, ServiceError, TooLarge, Unavailable
from service.serving.batcher import Announcement, Batcher
from service.serving.jobs import Job, Outcome
from service.settings import Settings

AT_ONCE = min(8, os.cpu_count() or 1)  # decoders that one caller can keep busy
BYTES_A_PIXEL = 24  # Pillow at its most: an image with transparency and a colour profile, its copies and their bands
BYTES_BESIDE = 1 << 28  # whatever the size of the picture: the file, tables, a decoder's own buffers

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prepared:
    """A picture, and the same at the backbone's size: uint8 [3, s, s]."""

    picture: Picture
    image: Tensor


Found = Decoded | ServiceError
Result = tuple[Prepared, Outcome] | ServiceError


def rules(settings: Settings, side: int) -> Rules:
    """What holds for every decoder."""
    intake = settings.intake
    memory = BYTES_A_PIXEL * intake.max_pixels + BYTES_BESIDE + 2 * intake.max_bytes
    return Rules(intake.limits(), side, intake.decode_seconds, memory, settings.serving.nice)


class Preparer:
    """Has files decoded, and hands on to the batcher what is ready, while the rest of a request is being decoded."""

    def __init__(self, context: Context, batcher: Batcher[Job, Outcome], decoders: Decoders) -> None:
        self._limit = context.settings.intake.max_bytes
        self._patience = context.settings.serving.deadline_seconds
        self._batcher = batcher
        self._decoders = decoders

    async def outcomes(
        self, files: Sequence[bytes], job: Callable[[Prepared], Job], *, caller: str = "", renewed: bool = False
    ) -> list[Result]:
        """What came of each file, or why nothing did, in order. Raises Busy if the queue has not room for them all.

        caller   who takes turns with others.
        renewed  `serving.deadline_seconds` are for each file to be the next that is ready, not for the whole wait: a
                 client that hands in hundreds of samples knows that it takes long.
        """
        with self._batcher.expect(len(files), caller=caller) as announcement:
            since = time.monotonic()
            tasks: list[asyncio.Task[list[tuple[int, Result]]]] = []
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

    async def _parts(self, files: Sequence[bytes], *, caller: str, renewed: bool) -> AsyncGenerator[Part[Found], None]:
        """Which file is what, as soon as it is known."""
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
        part: Part[Found],
        job: Callable[[Prepared], Job],
        since: float,
    ) -> list[tuple[int, Result]]:
        ready = [(place, one if isinstance(one, ServiceError) else _prepared(one)) for place, one in part]
        self._batcher.late += sum(isinstance(one, Unavailable) for _, one in ready)
        jobs = [job(one) for _, one in ready if isinstance(one, Prepared)]
        try:
            outcomes = iter(await announcement.submit(jobs, since=since))
        except ServiceError as error:
            return [(place, error if isinstance(one, Prepared) else one) for place, one in ready]
        return [(place, (one, next(outcomes)) if isinstance(one, Prepared) else one) for place, one in ready]

    def stop(self) -> None:
        """At once: who waits is told so."""
        self._decoders.stop()


def _prepared(found: Decoded) -> Prepared:
    return Prepared(Picture(found.pixels, found.digest), torch.from_numpy(found.resized))


async def while_connected(request: Request, work: Awaitable[Answer]) -> Answer:
    """What `work` comes to; it is cancelled when the client closes the connection. Raises ClientGone then.

    To be called once the body has been read.
    """
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("The client has closed the connection.")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Intake from uploaded files to recorded samples: preprocessed together with other requests' images, then recorded.

Runs on a thread of the caller's; the event loop does the preprocessing meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio.from_thread

from service.core.context import Context
from service.core.duplicates import AlreadyRecorded
from service.core.intake import NewSample, take_in
from service.errors import ServiceError, Unavailable
from service.registry.records import Role, Sample
from service.registry.roles import TRAINING
from service.serving.jobs import Description, EmbedJob
from service.serving.preprocess import Preprocessed, Preprocessor

Recorded = Sample | AlreadyRecorded | ServiceError
WhileConnected = Callable[[Awaitable[list[Preprocessed]]], Awaitable[list[Preprocessed]]]


@dataclass(frozen=True)
class Upload:
    """An image file as it came, and what its sender says of it; for the rest see `NewSample`."""

    data: bytes
    label: str
    owner: str
    unless_held: int | None = None
    role: Role = TRAINING


class Ingest:
    """Records uploads.

    recorded  called after samples have been recorded: there may be something to plan.
    """

    def __init__(self, context: Context, preprocessor: Preprocessor, *, recorded: Callable[[], None]) -> None:
        self._context = context
        self._preprocessor = preprocessor
        self._recorded = recorded

    def take_in(
        self,
        uploads: Sequence[Upload | ServiceError],
        *,
        caller: str,
        key_id: str | None,
        while_connected: WhileConnected,
        idempotency_key: str | None = None,
    ) -> list[Recorded]:
        """One result an upload, in order; an upload that is an error already is its own result.

        To be called on a thread that the event loop has started. Raises Unavailable if the backbone answered for none,
        and OverBudget.

        caller           takes turns with other callers.
        key_id           the API key that the samples are charged to.
        while_connected  awaits the preprocessing, and cancels it once the client has disconnected.
        idempotency_key  digest of the request's key, tied to its one sample.
        """
        sent = [upload for upload in uploads if isinstance(upload, Upload)]
        described = iter(self._describe(sent, caller, while_connected))
        ready = [upload if isinstance(upload, ServiceError) else next(described) for upload in uploads]
        new_samples = [one for one in ready if isinstance(one, NewSample)]
        if not new_samples:
            return [one for one in ready if isinstance(one, ServiceError)]
        taken = iter(take_in(self._context, new_samples, key_id=key_id, idempotency_key=idempotency_key))
        self._recorded()
        return [next(taken) if isinstance(one, NewSample) else one for one in ready]

    def _describe(
        self, uploads: Sequence[Upload], caller: str, while_connected: WhileConnected
    ) -> list[NewSample | ServiceError]:
        """Each upload as it is to be recorded, or why it is refused."""

        async def outcomes() -> list[Preprocessed]:
            files = [upload.data for upload in uploads]
            work = self._preprocessor.outcomes(files, EmbedJob.of, caller=caller, renewed=True)
            return await while_connected(work)

        found = anyio.from_thread.run(outcomes)
        return [_new_sample(upload, one) for upload, one in zip(uploads, found, strict=True)]


def _new_sample(upload: Upload, found: Preprocessed) -> NewSample | ServiceError:
    """Raises Unavailable: what kept one image from the backbone keeps the whole request from being recorded."""
    if isinstance(found, Unavailable):
        raise found
    if isinstance(found, ServiceError):
        return found
    image, outcome = found
    if isinstance(outcome, ServiceError):
        return outcome
    assert isinstance(outcome, Description)  # the only answer to an EmbedJob
    return NewSample(
        pixels=image.pixels,
        digest=image.digest,
        embedding=outcome.embedding,
        descriptor=outcome.descriptor,
        label=upload.label,
        owner=upload.owner,
        unless_held=upload.unless_held,
        role=upload.role,
    )

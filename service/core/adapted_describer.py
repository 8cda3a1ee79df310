"""Describing samples with the adapted backbone: an object of its own for each sample that is learned from.

As with `core.redescribe`, portion by portion, by any number of workers: an object is written only in a transaction in
which its sample is recorded and the adapter is in force, and the row says so in the same transaction. So nothing that
was erased comes back, no descriptor outlives its adapter unseen, and a worker that is killed loses a portion.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from models.descriptor import Descriptor
from models.image import Pixels
from service.artifacts import ObjectMissing, StoreUnavailable
from service.core import adapting, sample_file
from service.core.context import Context, require_bound
from service.registry import adapted, samples
from service.registry.samples import MemberRecord

log = logging.getLogger(__name__)

PORTION = 32  # samples described in one exclusive transaction, for which every other writer waits
CHOICE = 1_000  # samples that a portion is drawn from: two workers seldom draw the same
PATIENCE = 60.0  # seconds before a file that could not be read is tried again


class AdaptedDescriber:
    """Describes samples with the adapter in force, portion by portion. Of one thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loaded: tuple[str, Tensor] | None = None  # the publication and its values
        self._unreadable: dict[str, float] = {}  # until when they are left alone (monotonic seconds), by sample id

    def work(self, *, until: Callable[[], bool]) -> bool:
        """Describe portions until none is left or `until` says so; whether there may be more. Raises Misconfigured.

        Also raises OSError and Unavailable, if the store or the registry is away: nothing is lost.
        """
        try:
            while not until():
                if not self.portion():
                    return False
            return True
        finally:
            self._loaded = None  # it knows the core: this worker may have something else to do for long

    def portion(self) -> int:
        """Describe up to `PORTION` samples; how many: 0 while there is no adapter."""
        adapter = self._adapter()
        if adapter is None:
            return 0
        publication, values = adapter
        with self._context.registry.read() as session:
            missing = adapted.missing(session, publication, limit=CHOICE)
        now = time.monotonic()
        readable = [sample for sample in missing if self._unreadable.get(sample.id, 0.0) <= now]
        chosen = random.sample(readable, min(PORTION, len(readable)))
        read = [(sample, pixels) for sample in chosen if (pixels := self._read(sample)) is not None]
        if not read:
            return 0
        found = adapting.describe(self._context, values, [pixels for _, pixels in read])
        return self._record(publication, [sample.id for sample, _ in read], found)

    def _adapter(self) -> tuple[str, Tensor] | None:
        """The publication in force and its values."""
        with self._context.registry.read() as session:
            found = adapted.in_force(session)
        if found is None:
            self._loaded = None
            return None
        publication = adapted.publication_of(found.object_name)
        if self._loaded is None or self._loaded[0] != publication:
            values = adapting.load(self._context, found)
            self._loaded = (publication, values) if values is not None else None
        return self._loaded

    def _read(self, sample: MemberRecord) -> Pixels | None:
        try:
            data = self._context.store.get(samples.object_name(sample.id))
            return sample_file.decode(data, digest=sample.digest).pixels
        except StoreUnavailable:
            raise
        except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
            log.error("sample %s cannot be described by the adapter: %s", sample.id, sample_file.words(error))
            self._unreadable[sample.id] = time.monotonic() + PATIENCE
            return None

    def _record(self, publication: str, ids: Sequence[str], found: Descriptor) -> int:
        """Store the descriptors of those samples that still wait for one by this publication; how many."""
        encoded = {sample_id: adapting.encode(row) for sample_id, row in zip(ids, found, strict=True)}
        self._context.store.check()  # while no writer waits: a store that hangs would hold up every writer
        with self._context.registry.write(exclusive=True) as session:
            require_bound(self._context, session)
            if adapted.publication_in_force(session) != publication:
                return 0
            waiting = sorted(adapted.among(session, ids, publication))
            self._context.store.put_many([(adapted.object_name(publication, i), encoded[i]) for i in waiting])
            adapted.note(session, waiting, publication)
        return len(waiting)

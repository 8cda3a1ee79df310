"""Describing samples anew: their files get a descriptor of the wanted kind, computed from the kept pixels.

Needed when `closed_form.features` or `training.flip` has changed, and once after an upgrade. Promises: a file is
rewritten only in a transaction in which its sample is recorded, so nothing erased comes back; what is recorded of a
file's kind is never ahead of the file, so a worker that is killed loses only the portion under way; embeddings keep
their bytes. Each sample to learn from that is done is an addition to the closed-form tier, which meanwhile answers with
those it has; evaluation samples come after these.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.embedding import check, describe
from service.artifacts import ObjectMissing, StoreUnavailable
from service.core import sample_file
from service.core.context import Context, require_bound
from service.registry import descriptions, feed, samples
from service.registry.descriptions import Undescribed
from service.registry.records import Role
from service.registry.roles import EVALUATION, TRAINING

log = logging.getLogger(__name__)

PORTION = 16  # samples rewritten in one exclusive transaction, for which every other writer waits
CHOICE = 1_000  # samples that a portion is drawn from: two workers seldom draw the same
PATIENCE = 60.0  # seconds before a file that could not be read is tried again


@dataclass(frozen=True)
class _Read:
    """A sample and its file: the bytes that it is to have, None if they are right already."""

    sample: Undescribed
    contents: sample_file.Contents
    data: bytes | None


class Redescriber:
    """Describes samples anew, portion by portion. Of one thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._unreadable: dict[str, float] = {}  # until when they are left alone (monotonic seconds), by sample id

    def work(self, *, until: Callable[[], bool]) -> bool:
        """Describe portions until none is left or `until` says so; whether there may be more. Raises Misconfigured.

        Also raises OSError and Unavailable, if the store or the registry is away: nothing is lost, and it may be tried
        again.
        """
        while not until():
            if not self.portion():
                return False
        return True

    def portion(self) -> int:
        """Describe up to `PORTION` samples anew; how many are right now that were not."""
        readable = self._readable(TRAINING) or self._readable(EVALUATION)  # the closed form waits for the former
        chosen = random.sample(readable, min(PORTION, len(readable)))
        read = [found for sample in chosen if (found := self._read(sample)) is not None]
        ready = self._described(read)
        return self._record(ready) if ready else 0

    def _readable(self, role: Role) -> list[Undescribed]:
        """Some of the samples that are to be described anew, without those that could not be read a moment ago."""
        with self._context.registry.read() as session:
            missing = descriptions.missing(session, self._context.backbone.kind.name, limit=CHOICE, role=role)
        now = time.monotonic()
        return [sample for sample in missing if self._unreadable.get(sample.id, 0.0) <= now]

    def _read(self, sample: Undescribed) -> _Read | None:
        try:
            data = self._context.store.get(samples.object_name(sample.id))
            return _Read(sample, sample_file.decode(data, digest=sample.digest), None)
        except StoreUnavailable:
            raise
        except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
            self._put_aside(sample, sample_file.words(error))
            return None

    def _put_aside(self, sample: Undescribed, reason: str) -> None:
        log.error("sample %s cannot be described anew, and what is computed from it waits: %s", sample.id, reason)
        self._unreadable[sample.id] = time.monotonic() + PATIENCE

    def _described(self, read: Sequence[_Read]) -> list[_Read]:
        """With the bytes of those files that have to be rewritten."""
        backbone = self._context.backbone
        kind = backbone.kind.name
        outdated = [one for one in read if one.contents.kind != kind]
        found = describe(backbone, [backbone.preprocessing.resize(one.contents.pixels) for one in outdated])
        ready = [one for one in read if one.contents.kind == kind]
        for one, descriptor in zip(outdated, found.descriptors, strict=True):
            try:
                check(one.contents.embedding, descriptor)
            except ValueError as error:
                self._put_aside(one.sample, str(error))
                continue
            data = sample_file.encode(one.contents.pixels, one.contents.embedding, descriptor, kind=kind)
            ready.append(_Read(one.sample, one.contents, data))
        return ready

    def _record(self, ready: Sequence[_Read]) -> int:
        """Rewrite the files of those samples that still wait for it, and record it; how many.

        One that another worker has described meanwhile keeps its file: replicas have added what is in it.
        """
        self._context.store.check()  # while no writer waits: a store that hangs would hold up every writer
        with self._context.registry.write(exclusive=True) as session:
            require_bound(self._context, session)
            ids, kind = [one.sample.id for one in ready], self._context.backbone.kind.name
            waiting = descriptions.among(session, ids, kind)
            learned = descriptions.among(session, ids, kind, role=TRAINING)
            kept = [one for one in ready if one.sample.id in waiting]
            self._context.store.put_many(
                [(samples.object_name(one.sample.id), one.data) for one in kept if one.data is not None]
            )
            descriptions.note(session, [one.sample.id for one in kept], kind)
            feed.note_additions(session, sorted(learned))
        return len(kept)

"""Descriptors of samples, read from their files in the store: in turn, or ahead of their use on several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from models.descriptor import Descriptor
from service.artifacts import ObjectMissing
from service.core import sample_file
from service.core.context import Context
from service.registry import descriptions, samples
from service.registry.feed import Added

CHUNK = 1024  # samples in one product of matrices; half as many take a fifth longer each
READERS = 8  # threads: each object may be a request to another machine
TURN = 32  # samples that a thread reads in one go; so few are not worth another thread


class Lost(Exception):
    """The tier's state cannot be brought up to date."""


class DescriptorFiles:
    """The descriptors in samples' files, of the kind that is wanted. Safe to use from several threads."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def read(self, added: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        """Descriptors [n, width] of these samples with their labels, chunk by chunk. Raises Lost."""
        for start in range(0, len(added), CHUNK):
            chunk = added[start : start + CHUNK]
            yield np.stack([self._of(sample) for sample in chunk]), [sample.label for sample in chunk]

    def read_ahead(self, added: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        """As `read`, on threads that read the next chunk while one is in use."""
        if len(added) <= TURN:
            yield from self.read(added)
            return
        readers = ThreadPoolExecutor(READERS, thread_name_prefix="descriptor-reader")
        try:
            under_way: deque[tuple[Sequence[Added], list[Future[list[Descriptor]]]]] = deque()
            for start in range(0, len(added), CHUNK):
                chunk = added[start : start + CHUNK]
                turns = [chunk[first : first + TURN] for first in range(0, len(chunk), TURN)]
                under_way.append((chunk, [readers.submit(self._turn, turn) for turn in turns]))
                if len(under_way) > 1:
                    yield _gathered(*under_way.popleft())
            yield _gathered(*under_way.popleft())
        finally:
            readers.shutdown(cancel_futures=True)

    def removed(self, name: str) -> Descriptor:
        """The descriptor in the file of a removed sample, by the name of its object. Raises Lost."""
        found = self._recorded(name)
        if found is None:
            raise Lost(f"{name} has no descriptor of the kind {self._context.backbone.kind.name}")
        return found

    def _turn(self, turn: Sequence[Added]) -> list[Descriptor]:
        return [self._of(sample) for sample in turn]

    def _of(self, sample: Added) -> Descriptor:
        """The descriptor of a sample on record. Raises Lost; a sample with another kind is to be described anew."""
        found = self._recorded(samples.object_name(sample.id))
        if found is None:
            with self._context.registry.write_beside_plans() as session:
                descriptions.note(session, [sample.id], None)
            raise Lost(f"sample {sample.id} has no descriptor of the kind {self._context.backbone.kind.name}")
        return found

    def _recorded(self, name: str) -> Descriptor | None:
        """The descriptor in a sample's file; None if it is of another kind. Raises Lost."""
        try:
            return sample_file.descriptor(self._context.store.get(name), kind=self._context.backbone.kind.name)
        except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
            raise Lost(f"{name}: {sample_file.words(error)}") from None


def _gathered(chunk: Sequence[Added], turns: Sequence[Future[list[Descriptor]]]) -> tuple[Descriptor, list[str]]:
    return np.stack([found for turn in turns for found in turn.result()]), [sample.label for sample in chunk]

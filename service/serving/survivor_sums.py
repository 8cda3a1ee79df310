"""The sums of a replica's closed-form tier: of exactly those samples that the feed named up to the sums' marks.

Removals and additions have a mark each, and may be applied apart: removed samples at once, by the thread that finds
them; added ones, which are read from the store first, some time later. A sample that is removed before it was added is
passed over. What is missing from the feed is noticed, whichever came first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from models.closed_form import FEW, Accumulators, accumulate
from service.registry import samples
from service.registry.feed import Added, Changes
from service.registry.records import Marks
from service.serving.descriptor_files import DescriptorFiles, Lost

CHUNK = 256  # removed samples subtracted at a time


class Additions(NamedTuple):
    """Samples to be added, and the mark of additions that they lead to.

    passed  objects of samples that came by that mark and are removed already.
    """

    added: tuple[Added, ...]
    mark: int
    passed: frozenset[str]


class SurvivorSums:
    """Accumulators, their marks, and the labels of the samples that are in them. Not thread-safe, but for `sum_up`."""

    def __init__(self, state: Accumulators, changes: Changes, files: DescriptorFiles) -> None:
        """`state` has all samples in that `changes` adds."""
        self.state = state
        self.marks = changes.now
        self._files = files
        self._labels = _labels(changes.added)  # of the samples that are in, by the name of their object
        self._passed: set[str] = set()  # objects of removed samples that came after `marks.additions`

    def remove(self, changes: Changes) -> int:
        """Take out removed samples, from the sums' marks on; how many were in. Raises Lost."""
        if not changes.complete(self._labels, passed=len(self._passed)):
            raise Lost("changes are missing from the feed: this replica counted as dead meanwhile")
        if any(samples.object_name(one.id) in self._labels for one in changes.added):
            raise Lost("a sample was described anew that this replica had added")
        gone = [name for name in changes.removed if name in self._labels]
        self._passed.update(name for name in changes.removed if name not in self._labels)
        self._take_out(gone)
        self.marks = Marks(self.marks.additions, changes.now.removals)
        return len(gone)

    def additions(self, changes: Changes) -> Additions:
        """Of changes whose removals have just been applied."""
        return Additions(changes.added, changes.now.additions, frozenset(self._passed))

    def sum_up(self, added: Sequence[Added]) -> Callable[[], None]:
        """Read added samples; a function that adds them to the sums in milliseconds, however many they are.

        Changes nothing yet, so others may use the sums meanwhile. Raises Lost or TooManySamples, as the function does.
        """
        if len(added) > FEW:
            sums = accumulate(self.state.dim, self._files.read_ahead(added), kind=self.state.kind)
            return lambda: self.state.merge(sums)
        parts = list(self._files.read_ahead(added))

        def add() -> None:
            for descriptors, labels in parts:
                self.state.add(descriptors, labels)

        return add

    def note_added(self, additions: Additions) -> None:
        """Record that these samples are in. Those that were removed meanwhile, and passed over, are taken out again.

        Raises Lost.
        """
        labels = _labels(additions.added)
        self._labels.update(labels)
        self._take_out([name for name in labels if name in self._passed])
        self._passed -= additions.passed | labels.keys()
        self.marks = Marks(additions.mark, self.marks.removals)

    def _take_out(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            rows = np.stack([self._files.removed(name) for name in chunk])
            self.state.remove(rows, [self._labels.pop(name) for name in chunk])


def _labels(added: Sequence[Added]) -> dict[str, str]:
    return {samples.object_name(one.id): one.label for one in added}

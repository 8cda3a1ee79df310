"""Pictures that are held already: whoever sends the same folder again is answered with what it made.

A newcomer may say how many samples must be its very picture, of its owner and under its label, for it to be left alone
(`unless_held`). What is held is asked within the transaction that records, so that a request which is still under way,
of a sender that was killed, is no way to be recorded twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import ServiceError
from service.registry import samples
from service.registry.engine import ReadSession
from service.registry.records import Sample

PictureKey = tuple[str, str, str]  # owner, label, digest


@dataclass(frozen=True)
class AlreadyRecorded:
    """Nothing was recorded: the picture is this sample already."""

    sample: Sample


@dataclass(frozen=True)
class RepeatedInRequest:
    """Nothing is recorded: the picture is the newcomer at that place of the same request."""

    place: int


class DuplicateCheck:
    """Whatever samples the pictures of a request are, on record and in the request itself.

    pictures  each with how many must be held for it to be left alone; None: whatever is held.
    found     for each what it is already; None if it is new.
    """

    def __init__(self, session: ReadSession, pictures: Sequence[tuple[PictureKey, int | None]]) -> None:
        self._asked = {picture for picture, unless_held in pictures if unless_held is not None}
        self._known: dict[PictureKey, list[Sample | int]] = defaultdict(list)
        for sample in samples.alike(session, self._asked):
            self._known[sample.owner, sample.label, sample.digest].append(sample)
        self.found = [self._find(place, *asked) for place, asked in enumerate(pictures)]

    def _find(
        self, place: int, picture: PictureKey, unless_held: int | None
    ) -> AlreadyRecorded | RepeatedInRequest | None:
        alike = self._known[picture]
        if unless_held is None or len(alike) < unless_held:
            alike.append(place)
            return None
        known = alike[unless_held - 1]
        return AlreadyRecorded(known) if isinstance(known, Sample) else RepeatedInRequest(known)

    def is_outdated(self, session: ReadSession) -> bool:
        """Whether others have recorded one of these pictures since; once ours are recorded."""
        now: dict[PictureKey, int] = defaultdict(int)
        for sample in samples.alike(session, self._asked):
            now[sample.owner, sample.label, sample.digest] += 1
        return any(count > len(self._known[picture]) for picture, count in now.items())


def resolve_repeats(
    results: Sequence[Sample | AlreadyRecorded | RepeatedInRequest | ServiceError],
) -> list[Sample | AlreadyRecorded | ServiceError]:
    """With what became of its twin in place of each twin: its sample, or why it was refused."""
    found: list[Sample | AlreadyRecorded | ServiceError] = []
    for result in results:
        if isinstance(result, RepeatedInRequest):
            other = found[result.place]
            result = AlreadyRecorded(other) if isinstance(other, Sample) else other
        found.append(result)
    return found

"""Images that are recorded already: a client that sends the same folder again gets the samples that it made before.

A new sample may say how many samples of its owner under its label and with its role must be this very image for it not
to be recorded again (`unless_held`). The registry is asked within the transaction that records: so a second request
cannot record an image twice while the first one, of a client that was killed, is still under way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import ServiceError
from service.registry import samples
from service.registry.engine import ReadSession
from service.registry.records import Role, Sample

PictureKey = tuple[str, str, str, Role]  # owner, label, digest, role


@dataclass(frozen=True)
class AlreadyRecorded:
    """The outcome of an image that is on record already, as this sample: no sample is made."""

    sample: Sample


@dataclass(frozen=True)
class RepeatedInRequest:
    """The outcome of an image that is in its request twice, first at this place: no sample is made."""

    place: int


class DuplicateCheck:
    """The images of a request that are recorded already, or come more than once in the request.

    pictures  each with its `unless_held`; None: record it in any case.
    found     for each image the sample, or the place in the request, that it duplicates; None if it is new.
    """

    def __init__(self, session: ReadSession, pictures: Sequence[tuple[PictureKey, int | None]]) -> None:
        self._asked = {picture for picture, unless_held in pictures if unless_held is not None}
        self._known: dict[PictureKey, list[Sample | int]] = defaultdict(list)
        for sample in samples.alike(session, self._asked):
            self._known[_key(sample)].append(sample)
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
        """Whether other requests have recorded one of these images meanwhile; asked after ours are recorded."""
        now: dict[PictureKey, int] = defaultdict(int)
        for sample in samples.alike(session, self._asked):
            now[_key(sample)] += 1
        return any(count > len(self._known[picture]) for picture, count in now.items())


def _key(sample: Sample) -> PictureKey:
    return sample.owner, sample.label, sample.digest, sample.role


def resolve_repeats(
    results: Sequence[Sample | AlreadyRecorded | RepeatedInRequest | ServiceError],
) -> list[Sample | AlreadyRecorded | ServiceError]:
    """The results, with each repeated image answered as the image that it repeats: its sample, or its refusal."""
    found: list[Sample | AlreadyRecorded | ServiceError] = []
    for result in results:
        if isinstance(result, RepeatedInRequest):
            other = found[result.place]
            result = AlreadyRecorded(other) if isinstance(other, Sample) else other
        found.append(result)
    return found

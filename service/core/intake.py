"""Taking samples in: decoded, embedded and located before the transaction; stored, then recorded, in it."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from uuid6 import uuid7

from models.embedding import DegenerateEmbedding, Descriptor, Embedding, check
from models.image import Pixels
from service import tracing
from service.core import budgets, layouts, sample_file
from service.core.context import Context
from service.core.held import Held, Roll, Twin, untwinned
from service.core.tidy import UNRECORDED_KEPT
from service.errors import Conflict, Invalid, ServiceError, Unavailable
from service.registry import clusters, feed, idempotency, samples
from service.registry import layouts as layout_rows
from service.registry.engine import WriteSession
from service.registry.records import Sample

log = logging.getLogger(__name__)

_ENCODED = 32 << 20  # bytes of encoded samples that are held at once, beside their pixels
WHOLE_LINE = (0, 2**63 - 1)
TRIES = 5


@dataclass(frozen=True)
class Upload:
    """An image as it came, and what the sender says of it."""

    data: bytes
    label: str
    owner: str
    unless_held: int | None = None  # see Newcomer


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: Pixels
    digest: str


@dataclass(frozen=True)
class Newcomer:
    """A sample that is ready to be recorded.

    unless_held  it is not to be, if so many samples of its owner under its label are this very picture.
    """

    picture: Picture
    embedding: Embedding
    descriptor: Descriptor
    label: str
    owner: str
    unless_held: int | None = None


@tracing.traced("take in")
def take_in(
    context: Context,
    newcomers: Sequence[Newcomer],
    *,
    requester: str | None = None,
    idempotency_key: str | None = None,
) -> list[Sample | Held | ServiceError]:
    """Store and record newcomers in order, in one transaction; for each, the sample or why not.

    Objects are written first: what the registry knows is always in the store. If the transaction fails they are
    destroyed again. `idempotency_key` (a digest) is tied to the one sample, in the same transaction. `requester` is
    the API key that they are charged to. Raises OverBudget.
    """
    ids = _ids(len(newcomers))
    begun = context.clock()
    written: list[str] = []
    try:
        sound = [pair for pair in zip(ids, newcomers, strict=True) if _flaw(pair[1]) is None]
        written += [samples.object_name(sample_id) for sample_id, _ in sound]
        _store(context, sound)
        results = _record(context, newcomers, ids, idempotency_key, requester=requester, begun=begun)
    except BaseException as error:
        _destroy_all_but_recorded(context, ids, written, doubtful=isinstance(error, Unavailable))
        raise
    kept = {samples.object_name(result.id) for result in results if isinstance(result, Sample)}
    _destroy(context, [name for name in written if name not in kept])
    return results


def _ids(count: int) -> list[str]:
    """UUIDs of version 7 (RFC 9562), all ending alike: their objects then share a folder of `FolderStore`.

    A new file in each of 200 folders costs twice what 200 in one do. 66 random bits in every millisecond remain.
    """
    end = secrets.token_hex(1)
    return [f"{str(uuid7())[:-2]}{end}" for _ in range(count)]


def _destroy(context: Context, names: Sequence[str]) -> None:
    """What is on no record. What the store does not destroy just now, `tidy` will: no answer depends on it."""
    try:
        for name in names:
            context.store.delete(name)
    except OSError as error:
        log.warning("unrecorded objects cannot be destroyed just now: %s", error.strerror)


def _store(context: Context, sound: Sequence[tuple[str, Newcomer]]) -> None:
    """Many at once, and never a copy of more than `_ENCODED` bytes of pixels, or one picture, beside themselves."""
    part: list[tuple[str, bytes]] = []
    size = 0
    for sample_id, newcomer in sound:
        data = sample_file.encode(newcomer.picture.pixels, newcomer.embedding, newcomer.descriptor)
        if part and size + len(data) > _ENCODED:
            context.store.put_many(part)
            part, size = [], 0
        part.append((samples.object_name(sample_id), data))
        size += len(data)
    context.store.put_many(part)


def _destroy_all_but_recorded(context: Context, ids: Sequence[str], written: Sequence[str], *, doubtful: bool) -> None:
    """After a failed transaction. A commit may have succeeded and only its acknowledgement be lost: ask.

    If the registry does not answer, the objects stay until `destroy_unrecorded` can ask.

    doubtful  The commit may even be under way still: ask when nobody else writes.
    """
    with suppress(Exception):
        with context.registry.write(exclusive=True) if doubtful else context.registry.read() as session:
            recorded = {samples.object_name(sample.id) for sample in samples.find(session, ids)}
        _destroy(context, [name for name in written if name not in recorded])


def _flaw(newcomer: Newcomer) -> Invalid | None:
    """Why this one cannot be located by anything."""
    try:
        check(newcomer.embedding, newcomer.descriptor)
    except DegenerateEmbedding as error:
        return Invalid(str(error))
    return None


@dataclass(frozen=True)
class _Located:
    """Where newcomers stand, or why not, in the layout of that digest."""

    layout: str | None
    positions: Sequence[int | ServiceError]


def _locate(context: Context, newcomers: Sequence[Newcomer]) -> _Located:
    """While positions mean nothing, any will do: everybody is about to be located anew."""
    digest, layout = layouts.in_force(context)
    positions: list[int | ServiceError] = [_flaw(newcomer) or 0 for newcomer in newcomers]
    sound = [place for place, position in enumerate(positions) if isinstance(position, int)]
    if layout is not None and sound:
        embeddings = np.stack([newcomers[place].embedding for place in sound])
        digests, owners = zip(*((newcomers[i].picture.digest, newcomers[i].owner) for i in sound), strict=True)
        found = layout.locate(embeddings, digests, owners)
        for place, position in zip(sound, found.tolist(), strict=True):
            positions[place] = position
    return _Located(digest if layout is not None else None, positions)


_Place = int | Held | Twin | ServiceError  # a position; or why nothing is recorded


class _MustBeAlone(Exception):
    """There is no cluster yet, or others bring copies of the same picture just now: not with others at once."""


class _Moved(Exception):
    """Another layout has been put in force meanwhile."""


def _record(
    context: Context,
    newcomers: Sequence[Newcomer],
    ids: Sequence[str],
    idempotency_key: str | None,
    *,
    requester: str | None,
    begun: datetime,
) -> list[Sample | Held | ServiceError]:
    exclusive = False
    for _ in range(TRIES):
        located = _locate(context, newcomers)
        try:
            with context.registry.write(exclusive=exclusive) as session:
                results = _record_all(context, session, newcomers, ids, located, exclusive=exclusive)
                recorded = [result for result in results if isinstance(result, Sample)]
                budgets.spend(context, session, requester, budgets.IMAGES, len(recorded))
                if idempotency_key is not None and isinstance(results[0], Sample):
                    idempotency.finish(session, idempotency_key, results[0].id)
                if context.clock() - begun > UNRECORDED_KEPT / 2:
                    _store_again(context, newcomers, results)
            return results
        except _MustBeAlone:
            exclusive = True
        except _Moved:
            continue
    raise Unavailable(layouts.MOVING)


def _store_again(
    context: Context, newcomers: Sequence[Newcomer], results: Sequence[Sample | Held | ServiceError]
) -> None:
    """The clock has leapt, or the machine slept: `tidy` may have taken the objects for a dead process's.

    Within the transaction that records them, while which it destroys nothing.
    """
    pairs = zip(newcomers, results, strict=True)
    _store(context, [(result.id, newcomer) for newcomer, result in pairs if isinstance(result, Sample)])


def _record_all(
    context: Context,
    session: WriteSession,
    newcomers: Sequence[Newcomer],
    ids: Sequence[str],
    located: _Located,
    *,
    exclusive: bool,
) -> list[Sample | Held | ServiceError]:
    most = context.partition.max_copies
    if layout_rows.digest(session) != located.layout:
        raise _Moved
    roll = Roll(session, [((one.owner, one.label, one.picture.digest), one.unless_held) for one in newcomers])
    known = [one or position for one, position in zip(roll.found, located.positions, strict=True)]
    places = _refuse_copies(context, session, newcomers, known)
    taken = zip(newcomers, places, strict=True)
    owners = samples.ensure_owners(session, (newcomer.owner for newcomer, place in taken if isinstance(place, int)))
    now = context.clock()
    located_in = _clusters_of(session, places, exclusive=exclusive, now=now)
    results = [
        _sample(newcomer, sample_id, place, cluster, now) if isinstance(place, int) else place
        for newcomer, sample_id, place, cluster in zip(newcomers, ids, places, located_in, strict=True)
    ]
    accepted = [result for result in results if isinstance(result, Sample)]
    samples.insert_all(session, accepted, owners)
    arrivals = Counter(sample.cluster for sample in accepted)
    settles_at = now + timedelta(seconds=context.settings.training.settle_seconds)
    for cluster, count in sorted(arrivals.items()):  # one order of locks for everyone
        clusters.added(session, cluster, count, settles_at=settles_at, now=now)
    # An owner's copies share a cluster, which is locked by now: what others have added meanwhile can be seen.
    if not exclusive and most is not None and _most_copies(session, newcomers) > most:
        raise _MustBeAlone
    if not exclusive and roll.is_outdated(session):
        raise _MustBeAlone
    feed.note_additions(session, [sample.id for sample in accepted])
    return untwinned(results)


def _refuse_copies(
    context: Context,
    session: WriteSession,
    newcomers: Sequence[Newcomer],
    positions: Sequence[_Place],
) -> list[_Place]:
    """The positions, with a Conflict in place of those that are one copy of a picture too many of its owner.

    What others hold is not looked at: a refusal would tell of it, and anybody could spoil a picture for everybody else.
    """
    most = context.partition.max_copies
    if most is None:
        return list(positions)
    coming = samples.copies(session, map(_copy, newcomers))  # and those before, here
    places: list[_Place] = []
    for newcomer, position in zip(newcomers, positions, strict=True):
        if isinstance(position, int):
            copy = _copy(newcomer)
            if coming[copy] >= most:
                position = Conflict(
                    f"{most} copies of this very image are held for this owner already; more could not be divided into "
                    "clusters of the allowed size."
                )
            else:
                coming[copy] += 1
        places.append(position)
    return places


def _most_copies(session: WriteSession, newcomers: Sequence[Newcomer]) -> int:
    """Of what is coming: how often an owner has what they have most often."""
    return max(samples.copies(session, map(_copy, newcomers)).values(), default=0)


def _copy(newcomer: Newcomer) -> tuple[str, str]:
    """Whose it is, and which picture: what one owner may give so often, and no more."""
    return newcomer.owner, newcomer.picture.digest


def _clusters_of(session: WriteSession, places: Sequence[_Place], *, exclusive: bool, now: datetime) -> list[str]:
    """The cluster that covers each position, "" for what has none. While there is none, one for all is made: alone."""
    positions = [place for place in places if isinstance(place, int)]
    covered = clusters.covering(session, positions)
    if None in covered and not exclusive:
        raise _MustBeAlone
    lo, hi = WHOLE_LINE
    first = clusters.create(session, lo=lo, hi=hi, now=now) if None in covered else ""
    found = iter(covered)
    return [next(found) or first if isinstance(place, int) else "" for place in places]


def _sample(newcomer: Newcomer, sample_id: str, position: int, cluster: str, now: datetime) -> Sample:
    return Sample(
        id=sample_id,
        owner=newcomer.owner,
        label=newcomer.label,
        digest=newcomer.picture.digest,
        cluster=cluster,
        created_at=now,
        position=position,
    )

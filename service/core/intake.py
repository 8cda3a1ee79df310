"""Recording new samples: located and stored before the transaction, recorded in it."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import compress

import numpy as np
from uuid6 import uuid7

from models.descriptor import Descriptor
from models.embedding import DegenerateEmbedding, Embedding, check
from models.image import Pixels
from models.late import CannotCut
from service import tracing
from service.core import budgets, layouts, sample_file
from service.core.context import Context
from service.core.duplicates import AlreadyRecorded, DuplicateCheck, RepeatedInRequest, resolve_repeats
from service.core.tidy import UNRECORDED_KEPT
from service.errors import Conflict, Invalid, ServiceError, Unavailable
from service.registry import clusters, evaluation, feed, idempotency, layout_state, samples
from service.registry.engine import WriteSession
from service.registry.records import Role, Sample
from service.registry.roles import CORE, EVALUATION, TRAINING

log = logging.getLogger(__name__)

_ENCODED = 32 << 20  # bytes of encoded samples in memory at once, beside their pixels
WHOLE_LINE = (0, 2**63 - 1)
TRIES = 5


@dataclass(frozen=True)
class NewSample:
    """A decoded and described image that is ready to be recorded as a sample.

    digest       of the pixels (`models.image.pixel_digest`).
    unless_held  do not record it if so many samples of its owner under its label, with its role, are this very image.
    """

    pixels: Pixels
    digest: str
    embedding: Embedding
    descriptor: Descriptor
    label: str
    owner: str
    unless_held: int | None = None
    role: Role = TRAINING


@tracing.traced("take in")
def take_in(
    context: Context,
    new_samples: Sequence[NewSample],
    *,
    key_id: str | None = None,
    idempotency_key: str | None = None,
) -> list[Sample | AlreadyRecorded | ServiceError]:
    """Store new samples and record them in order, in one transaction; for each the sample, or why it is refused.

    Objects are stored first, so every recorded sample has its object. If the transaction fails, they are deleted again.
    Raises OverBudget.

    key_id           the API key that they are charged to.
    idempotency_key  digest of the request's key, which the transaction ties to its one sample.
    """
    ids = _ids(len(new_samples))
    begun = context.clock()
    written: list[str] = []
    try:
        sound = [pair for pair in zip(ids, new_samples, strict=True) if _flaw(context, pair[1]) is None]
        written += [samples.object_name(sample_id) for sample_id, _ in sound]
        _store(context, sound)
        results = _record(context, new_samples, ids, idempotency_key, key_id=key_id, begun=begun)
    except BaseException as error:
        _destroy_all_but_recorded(context, ids, written, doubtful=isinstance(error, Unavailable))
        raise
    kept = {samples.object_name(result.id) for result in results if isinstance(result, Sample)}
    _destroy(context, [name for name in written if name not in kept])
    return results


def _ids(count: int) -> list[str]:
    """UUIDs of version 7 (RFC 9562) with the same last byte: their objects then share a folder of `FolderStore`.

    200 new files in 200 folders cost twice what 200 in one folder do. 66 random bits in every millisecond remain.
    """
    end = secrets.token_hex(1)
    return [f"{str(uuid7())[:-2]}{end}" for _ in range(count)]


def _destroy(context: Context, names: Sequence[str]) -> None:
    """Delete objects that are not recorded. Those that the store cannot delete now are left to `tidy`."""
    try:
        for name in names:
            context.store.delete(name)
    except OSError as error:
        log.warning("unrecorded objects cannot be destroyed just now: %s", error.strerror)


def _store(context: Context, sound: Sequence[tuple[str, NewSample]]) -> None:
    """Store many samples at once; never more than `_ENCODED` bytes, or one sample, encoded at a time."""
    part: list[tuple[str, bytes]] = []
    size = 0
    for sample_id, new_sample in sound:
        kind = context.backbone.kind.name
        data = sample_file.encode(new_sample.pixels, new_sample.embedding, new_sample.descriptor, kind=kind)
        if part and size + len(data) > _ENCODED:
            context.store.put_many(part)
            part, size = [], 0
        part.append((samples.object_name(sample_id), data))
        size += len(data)
    context.store.put_many(part)


def _destroy_all_but_recorded(context: Context, ids: Sequence[str], written: Sequence[str], *, doubtful: bool) -> None:
    """Delete objects after a failed transaction, but those of samples that are recorded: the commit may have succeeded.

    If the registry does not answer, the objects stay until `destroy_unrecorded` can ask it.

    doubtful  the commit may still be under way: ask in an exclusive transaction.
    """
    with suppress(Exception):
        with context.registry.write(exclusive=True) if doubtful else context.registry.read() as session:
            recorded = {samples.object_name(sample.id) for sample in samples.find(session, ids)}
        _destroy(context, [name for name in written if name not in recorded])


def _flaw(context: Context, new_sample: NewSample) -> Invalid | None:
    """Why this sample has no place in any layout, or cannot be of a core; None if it has."""
    try:
        check(new_sample.embedding, new_sample.descriptor)
        if new_sample.role == CORE:
            context.backbone.cuts.at(context.adapting.prompt.cut)
    except DegenerateEmbedding as error:
        return Invalid(str(error))
    except CannotCut as error:
        return Invalid(f"There can be no core samples. {error}")
    return None


@dataclass(frozen=True)
class _Located:
    """Positions of new samples in the layout of that digest, or why a sample has none: None if it is not to be learned
    from."""

    layout: str | None
    positions: Sequence[int | ServiceError | None]


def _locate(context: Context, new_samples: Sequence[NewSample]) -> _Located:
    """Positions in the layout in force. Without one they are 0, of no meaning: all samples are to be located anew."""
    digest, layout = layouts.in_force(context)
    positions: list[int | ServiceError | None] = [
        _flaw(context, new_sample) or (None if new_sample.role == EVALUATION else 0) for new_sample in new_samples
    ]
    sound = [place for place, position in enumerate(positions) if isinstance(position, int)]
    if layout is not None and sound:
        embeddings = np.stack([new_samples[place].embedding for place in sound])
        digests, owners = zip(*((new_samples[i].digest, new_samples[i].owner) for i in sound), strict=True)
        found = layout.locate(embeddings, digests, owners)
        for place, position in zip(sound, found.tolist(), strict=True):
            positions[place] = position
    return _Located(digest if layout is not None else None, positions)


# A position, or None for a sample that has none; or why nothing is recorded.
_Place = int | None | AlreadyRecorded | RepeatedInRequest | ServiceError


class _MustBeAlone(Exception):
    """There is no cluster yet, or other requests are recording copies of the same image: an exclusive transaction is
    needed."""


class _Moved(Exception):
    """Another layout has been put in force meanwhile."""


def _record(
    context: Context,
    new_samples: Sequence[NewSample],
    ids: Sequence[str],
    idempotency_key: str | None,
    *,
    key_id: str | None,
    begun: datetime,
) -> list[Sample | AlreadyRecorded | ServiceError]:
    """The recording transaction, repeated after a relayout, or as an exclusive one where that is needed.

    1. Check that the samples were located in the layout in force.
    2. Find images that are on record already, and copies that an owner has too many of.
    3. Record the owners.
    4. Record the samples, each in the cluster that covers its position; evaluation samples in none.
    5. Lock the clusters, in the order of their ids, and count their new members; core samples in the adapter as well;
       then the state row, for evaluation samples, which it counts.
    6. Check again for copies: those that other requests have added are visible now.
    7. Number the additions for the closed-form tiers of all replicas.
    8. Charge the samples to the API key's budget.
    9. Tie the `Idempotency-Key` to its sample.
    """
    exclusive = False
    for _ in range(TRIES):
        located = _locate(context, new_samples)
        try:
            with context.registry.write(exclusive=exclusive) as session:
                results = _record_all(context, session, new_samples, ids, located, exclusive=exclusive)
                # 8. Charge the key.
                recorded = [result for result in results if isinstance(result, Sample)]
                budgets.spend(context, session, key_id, budgets.IMAGES, len(recorded))
                # 9. Tie the key.
                if idempotency_key is not None and isinstance(results[0], Sample):
                    idempotency.finish(session, idempotency_key, results[0].id)
                if context.clock() - begun > UNRECORDED_KEPT / 2:
                    _store_again(context, new_samples, results)
            return results
        except _MustBeAlone:
            exclusive = True
        except _Moved:
            continue
    raise Unavailable(layouts.MOVING)


def _store_again(
    context: Context, new_samples: Sequence[NewSample], results: Sequence[Sample | AlreadyRecorded | ServiceError]
) -> None:
    """Store the objects again: the clock has leapt or the machine slept, and `tidy` may have deleted them as abandoned.

    To be called within the transaction that records the samples, during which `tidy` deletes nothing.
    """
    pairs = zip(new_samples, results, strict=True)
    _store(context, [(result.id, new_sample) for new_sample, result in pairs if isinstance(result, Sample)])


def _record_all(
    context: Context,
    session: WriteSession,
    new_samples: Sequence[NewSample],
    ids: Sequence[str],
    located: _Located,
    *,
    exclusive: bool,
) -> list[Sample | AlreadyRecorded | ServiceError]:
    """Steps 1 to 7 of `_record`."""
    most = context.partition.max_copies
    # 1. Check the layout.
    if layout_state.digest(session) != located.layout:
        raise _Moved
    # 2. Find duplicates.
    pictures = [((one.owner, one.label, one.digest, one.role), one.unless_held) for one in new_samples]
    duplicates = DuplicateCheck(session, pictures)
    known = [one or position for one, position in zip(duplicates.found, located.positions, strict=True)]
    places = _refuse_copies(context, session, new_samples, known)
    # 3. Record the owners.
    taken = [place is None or isinstance(place, int) for place in places]
    owners = samples.ensure_owners(session, (one.owner for one in compress(new_samples, taken)))
    # 4. Record the samples.
    now = context.clock()
    located_in = _clusters_of(session, places, exclusive=exclusive, now=now)
    results = [
        _sample(new_sample, sample_id, place, cluster, now) if place is None or isinstance(place, int) else place
        for new_sample, sample_id, place, cluster in zip(new_samples, ids, places, located_in, strict=True)
    ]
    accepted = [result for result in results if isinstance(result, Sample)]
    samples.insert_all(session, accepted, owners, kind=context.backbone.kind.name)
    # 5. Lock the clusters.
    arrivals = Counter(sample.cluster for sample in accepted if sample.cluster is not None)
    if in_core := sum(sample.role == CORE for sample in accepted):
        arrivals[_adapter(session, exclusive=exclusive, now=now)] += in_core
    settles_at = now + timedelta(seconds=context.settings.training.settle_seconds)
    for cluster, count in sorted(arrivals.items()):  # the order in which every transaction locks clusters
        clusters.count_added(session, cluster, count, settles_at=settles_at, now=now)
    # ... and the count of the evaluation set, whose samples no cluster's lock keeps apart.
    learned = [sample.id for sample in accepted if sample.role != EVALUATION]
    evaluation.note_additions(session, len(accepted) - len(learned))
    # 6. Check for copies. An owner's copies share a cluster, which is locked by now; or the evaluation set.
    if not exclusive and most is not None and _most_copies(session, new_samples) > most:
        raise _MustBeAlone
    if not exclusive and duplicates.is_outdated(session):
        raise _MustBeAlone
    # 7. Number the additions.
    feed.note_additions(session, learned)
    return resolve_repeats(results)


def _refuse_copies(
    context: Context,
    session: WriteSession,
    new_samples: Sequence[NewSample],
    positions: Sequence[_Place],
) -> list[_Place]:
    """The positions, with a Conflict in place of each copy of an image that is one too many for its owner.

    Other owners' copies do not count: a refusal would reveal them, and one owner could block an image for all others.
    """
    most = context.partition.max_copies
    if most is None:
        return list(positions)
    coming = samples.copies(session, map(_copy, new_samples))  # and those before it in this request
    places: list[_Place] = []
    for new_sample, position in zip(new_samples, positions, strict=True):
        if isinstance(position, int):
            copy = _copy(new_sample)
            if coming[copy] >= most:
                position = Conflict(
                    f"This owner has {most} copies of this very image already; more could not be divided into clusters "
                    "of the allowed size."
                )
            else:
                coming[copy] += 1
        places.append(position)
    return places


def _most_copies(session: WriteSession, new_samples: Sequence[NewSample]) -> int:
    """The largest number of copies that an owner has of one of these images."""
    return max(samples.copies(session, map(_copy, new_samples)).values(), default=0)


def _copy(new_sample: NewSample) -> tuple[str, str]:
    """(owner, image digest): what `partition.max_copies` limits."""
    return new_sample.owner, new_sample.digest


def _clusters_of(
    session: WriteSession, places: Sequence[_Place], *, exclusive: bool, now: datetime
) -> list[str | None]:
    """The cluster that covers each position; None where there is no position.

    The first samples make the first cluster, in an exclusive transaction. Raises _MustBeAlone in any other.
    """
    positions = [place for place in places if isinstance(place, int)]
    covered = clusters.covering(session, positions)
    if None in covered and not exclusive:
        raise _MustBeAlone
    lo, hi = WHOLE_LINE
    first = clusters.create(session, lo=lo, hi=hi, now=now) if None in covered else None
    found = iter(covered)
    return [next(found) or first if isinstance(place, int) else None for place in places]


def _adapter(session: WriteSession, *, exclusive: bool, now: datetime) -> str:
    """The adapter's id. Raises _MustBeAlone if it is to be made, which is done in an exclusive transaction."""
    found = clusters.adapter(session)
    if found is None and not exclusive:
        raise _MustBeAlone
    return found.id if found is not None else clusters.create_adapter(session, now=now)


def _sample(new_sample: NewSample, sample_id: str, position: int | None, cluster: str | None, now: datetime) -> Sample:
    return Sample(
        id=sample_id,
        owner=new_sample.owner,
        label=new_sample.label,
        digest=new_sample.digest,
        cluster=cluster,
        created_at=now,
        position=position,
        role=new_sample.role,
    )

"""Accepting erasures, and quoting them.

Accepting is one transaction: rows gone, every prompt that has seen them withdrawn, the serving epoch moved on. What
follows (planning, destroying bytes, retraining) is owed on record and done by `core.reconcile` and the workers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from service import tracing
from service.core import budgets, layouts
from service.core.context import Context
from service.core.recut import CountFromClusters
from service.errors import NotFound, Unavailable
from service.registry import backoff, clusters, erasures, feed, idempotency, progress, prompts, samples, state
from service.registry import layouts as layout_rows
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster, Erasure, Sample, Tombstone

TRIES = 5


class _Raced(Exception):
    """Another erasure took one of these samples first."""


def erase_sample(context: Context, sample_id: str, *, requester: str | None = None) -> Erasure:
    """Forget one sample. Raises NotFound, also once it has been forgotten."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for(session, sample_id)

    def find(session: ReadSession) -> list[Sample]:
        return samples.find(session, [sample_id])

    return _accept(context, find, already, missing=f"There is no sample {sample_id}.", requester=requester)


def erase_owner(
    context: Context, owner: str, *, requester: str | None = None, idempotency_key: str | None = None
) -> Erasure:
    """Forget everything one owner ever gave. Raises NotFound if there is nothing."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for_owner(session, owner)

    def find(session: ReadSession) -> list[Sample]:
        return samples.of_owner(session, owner)

    missing = "This owner has no samples."
    return _accept(
        context, find, already, missing=missing, owner=owner, requester=requester, idempotency_key=idempotency_key
    )


def erase_samples(
    context: Context, sample_ids: Sequence[str], *, requester: str | None = None, idempotency_key: str | None = None
) -> Erasure:
    """Forget these samples, all or none. Raises NotFound, naming those that are not held."""

    def find(session: ReadSession) -> list[Sample]:
        found = samples.find(session, sample_ids)
        require_all(sample_ids, found)
        return found

    return _accept(
        context,
        find,
        lambda session: None,
        missing="No samples are named.",
        requester=requester,
        idempotency_key=idempotency_key,
    )


def require_all(sample_ids: Sequence[str], found: Sequence[Sample]) -> None:
    """Raise NotFound, naming up to ten ids that are not held."""
    missing = sorted(set(sample_ids) - {sample.id for sample in found})
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise NotFound(f"No such samples: {', '.join(missing[:10])}{more}. Nothing has been erased.")


@tracing.traced("accept erasure")
def _accept(
    context: Context,
    find: Callable[[ReadSession], list[Sample]],
    already: Callable[[ReadSession], Erasure | None],
    *,
    missing: str,
    owner: str | None = None,
    requester: str | None,
    idempotency_key: str | None = None,
) -> Erasure:
    """The erasure, new or still running. `requester` is the API key that it is charged to. Raises OverBudget."""
    for _ in range(TRIES):
        try:
            with context.registry.write() as session:
                found = find(session)
                running = already(session) if not found else None
                if not found and running is None:
                    raise NotFound(missing)
                if running is None:
                    budgets.spend(context, session, requester, budgets.ERASURES)
                accepted = running or _erase(context, session, found, owner=owner)
                if idempotency_key is not None:
                    idempotency.finish(session, idempotency_key, accepted.id)
                return accepted
        except _Raced:
            continue
    raise Unavailable("Other erasures of the same samples are being accepted. Try again.")


def replay(context: Context, session: WriteSession, tombstone: Tombstone) -> Erasure | None:
    """Accept an erasure again that a restored registry has forgotten, under its old id if that is not known.

    None if there is nothing to forget, and the erasure is on record.

    In an exclusive transaction, so that nobody replays it at the same time. Samples that are not held count as well: a
    prompt may have seen them, an object of theirs may be there.
    """
    found = samples.find(session, tombstone.samples)
    is_back = found or prompts.containing(session, tombstone.samples)
    if not is_back and erasures.get(session, tombstone.erasure) is not None:
        return None
    return _erase(context, session, found, replayed=tombstone)


def _erase(
    context: Context,
    session: WriteSession,
    found: Sequence[Sample],
    *,
    owner: str | None = None,
    replayed: Tombstone | None = None,
) -> Erasure:
    """The accepting transaction. Cluster rows are locked in the order of their ids, as everywhere."""
    now = context.clock()
    ids = [sample.id for sample in found] if replayed is None else list(replayed.samples)
    gone = Counter(sample.cluster for sample in found)
    known_to = prompts.containing(session, ids)
    clusters.lock(session, list(gone), serving=known_to)
    backoff.set_back(session, list(gone), known_to, now=now, backoff=context.backoff)
    leases = [clusters.removed(session, cluster, count) for cluster, count in sorted(gone.items())]
    if samples.delete(session, ids) != len(found):
        raise _Raced
    seen_by = prompts.containing(session, ids)
    withdrawn = clusters.withdraw(session, seen_by, now=now)
    if replayed is not None:  # a restored prompt may have seen samples whose rows were not restored
        leases += [clusters.removed(session, cluster, 0) for cluster in sorted(set(withdrawn) - set(gone))]
    # An anchor has no say any more in where others are routed.
    if layout_rows.forget_anchors(session, ids) or withdrawn:
        state.bump_epoch(session)
    idempotency.forget_requests(session, ids)
    erasure_id = erasures.create(
        session,
        owner=owner,
        sample_ids=ids,
        touched={cluster: withdrawn.get(cluster) for cluster in sorted({*gone, *withdrawn})},
        now=now,
        due=timedelta(days=context.settings.erasure_due_days),
        known_as=replayed if replayed and erasures.get(session, replayed.erasure) is None else None,
    )
    if not gone and not withdrawn:  # no plan is out of date: none will come to take note of it
        progress.note_planned(session, erasure_id, epoch=state.epoch(session))
    prompts.drop_unserved(session, among=seen_by, erasure_id=erasure_id)
    objects = [samples.object_name(i) for i in ids]
    prompts.owe_destruction(session, objects, erasure_id=erasure_id)
    prompts.destroy_unpublished(session, [lease for lease in leases if lease], erasure_id=erasure_id)
    feed.note_removals(session, [samples.object_name(sample.id) for sample in found])
    accepted = erasures.get(session, erasure_id)
    assert accepted is not None  # made three lines above
    return accepted


@dataclass(frozen=True)
class Quote:
    """What an erasure would cost. `seconds` is None before anything has been trained."""

    samples: int
    clusters: tuple[str, ...]
    sample_epochs: int
    seconds: float | None
    full_sample_epochs: int


def quote(context: Context, *, sample_ids: Sequence[str] = (), owner: str | None = None) -> Quote:
    """Cut the line as it would be, and count what would have to be retrained. Changes nothing.

    Where the erasure would change a fitted layout, everybody may move: then the quote is everything, an upper bound.
    """
    with context.registry.read() as session:
        if owner is not None:
            found = samples.of_owner(session, owner)
        else:
            found = samples.find(session, sample_ids)
            require_all(sample_ids, found)
        if not found:
            raise NotFound("There is nothing to erase.")
        return _quote(context, session, found)


def _quote(context: Context, session: ReadSession, found: Sequence[Sample]) -> Quote:
    held = clusters.every(session)
    count = CountFromClusters(session, held)
    places = sorted(sample.position for sample in found)

    def left(lo: int, hi: int) -> int:
        return count(lo, hi) - (bisect_left(places, hi) - bisect_left(places, lo))

    regions = {(cluster.lo, cluster.hi) for cluster in held}
    touched = {sample.cluster for sample in found}
    everybody = sum(cluster.samples for cluster in held) - len(found)
    retrained = 0
    gone = [sample.id for sample in found]
    if layout_rows.digest(session) != layouts.wanted_now(context, session, without=gone)[0]:
        touched, retrained = {cluster.id for cluster in held if cluster.samples}, everybody
    else:
        for region in context.partition.cut(left):
            if (region.lo, region.hi) not in regions or left(*region) != count(*region):
                retrained += left(*region)
                touched |= {c.id for c in held if c.lo < region.hi and region.lo < c.hi and c.samples}
    epochs = context.training.epochs
    pace = _seconds_per_sample_epoch(session, held)
    return Quote(
        samples=len(found),
        clusters=tuple(sorted(touched)),
        sample_epochs=retrained * epochs,
        seconds=retrained * epochs * pace if pace is not None else None,
        full_sample_epochs=everybody * epochs,
    )


def _seconds_per_sample_epoch(session: ReadSession, held: Sequence[Cluster]) -> float | None:
    built = prompts.get(session, [c.serving_key for c in held if c.serving_key]).values()
    work = sum(prompt.sample_epochs for prompt in built)
    return sum(prompt.seconds for prompt in built) / work if work else None

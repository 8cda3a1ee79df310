"""Accepting erasures, quoting them, and seeing them through.

Accepting is one transaction: rows gone, every prompt that has seen them withdrawn, the serving epoch moved on. What
follows (planning, destroying bytes, retraining) is owed on record and done by `core.reconcile` and the workers.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from service.core import layouts, states
from service.core.context import Context
from service.core.recut import CountFromClusters
from service.errors import NotFound, Unavailable
from service.registry import clusters, erasures, feed, idempotency, prompts, samples, state
from service.registry import layouts as layout_rows
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster, Erasure, Sample, TouchedCluster

log = logging.getLogger(__name__)

TRIES = 5


class _Raced(Exception):
    """Another erasure took one of these samples first."""


def erase_sample(context: Context, sample_id: str) -> Erasure:
    """Forget one sample. Raises NotFound, also once it has been forgotten."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for(session, sample_id)

    def find(session: ReadSession) -> list[Sample]:
        return samples.find(session, [sample_id])

    return _accept(context, find, already, missing=f"There is no sample {sample_id}.")


def erase_owner(context: Context, owner: str, *, idempotency_key: str | None = None) -> Erasure:
    """Forget everything one owner ever gave. Raises NotFound if there is nothing."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for_owner(session, owner)

    def find(session: ReadSession) -> list[Sample]:
        return samples.of_owner(session, owner)

    missing = "This owner has no samples."
    return _accept(context, find, already, missing=missing, owner=owner, idempotency_key=idempotency_key)


def erase_samples(context: Context, sample_ids: Sequence[str], *, idempotency_key: str | None = None) -> Erasure:
    """Forget these samples, all or none. Raises NotFound, naming those that are not held."""

    def find(session: ReadSession) -> list[Sample]:
        found = samples.find(session, sample_ids)
        require_all(sample_ids, found)
        return found

    return _accept(
        context, find, lambda session: None, missing="No samples are named.", idempotency_key=idempotency_key
    )


def require_all(sample_ids: Sequence[str], found: Sequence[Sample]) -> None:
    """Raise NotFound, naming up to ten ids that are not held."""
    missing = sorted(set(sample_ids) - {sample.id for sample in found})
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise NotFound(f"No such samples: {', '.join(missing[:10])}{more}. Nothing has been erased.")


def _accept(
    context: Context,
    find: Callable[[ReadSession], list[Sample]],
    already: Callable[[ReadSession], Erasure | None],
    *,
    missing: str,
    owner: str | None = None,
    idempotency_key: str | None = None,
) -> Erasure:
    for _ in range(TRIES):
        try:
            with context.registry.write() as session:
                found = find(session)
                running = already(session) if not found else None
                if not found and running is None:
                    raise NotFound(missing)
                accepted = running or _erase(context, session, found, owner)
                if idempotency_key is not None:
                    idempotency.finish(session, idempotency_key, accepted.id)
                return accepted
        except _Raced:
            continue
    raise Unavailable("Other erasures of the same samples are being accepted. Try again.")


def _erase(context: Context, session: WriteSession, found: Sequence[Sample], owner: str | None) -> Erasure:
    """The accepting transaction. Cluster rows are locked in the order of their ids, as everywhere."""
    now = context.clock()
    ids = [sample.id for sample in found]
    gone = Counter(sample.cluster for sample in found)
    clusters.lock(session, list(gone), serving=prompts.containing(session, ids))
    leases = [clusters.removed(session, cluster, count) for cluster, count in sorted(gone.items())]
    if samples.delete(session, ids) != len(ids):
        raise _Raced
    withdrawn = clusters.withdraw(session, prompts.containing(session, ids), now=now)
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
    )
    prompts.drop_unserved(session, erasure_id=erasure_id)
    objects = [samples.object_name(i) for i in ids]
    prompts.owe_destruction(session, objects, erasure_id=erasure_id)
    prompts.destroy_unpublished(session, [lease for lease in leases if lease], erasure_id=erasure_id)
    feed.note_removals(session, objects)
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
    everybody = samples.count(session) - len(found)
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


def advance(context: Context) -> None:
    """Note how far every unfinished erasure has come; complete those that owe nothing any more."""
    with context.registry.read() as session:
        accepted = {erasure.id for erasure in erasures.unfinished(session)}
    if not accepted:
        return
    stored = _stored_layouts(context)
    # Exclusive: what another process notes at the same time must not be overwritten with what we saw before it.
    with context.registry.write(exclusive=True) as session:
        if left_behind := layouts.strays(session, stored or []):  # by a move that was killed: it may know anybody
            prompts.owe_destruction(session, left_behind)
            return
        waiting = erasures.awaiting_destruction(session)
        present = {cluster.id: cluster for cluster in clusters.every(session)}
        for erasure in erasures.unfinished(session):
            # A layout that is stored after we have looked is made of survivors: of nobody who was accepted before.
            if erasure.planned_epoch is None or erasure.id not in accepted:
                continue
            failed = waiting.get(erasure.id, 0 if stored is None else None)
            _advance_one(context, session, erasure, present, failed_destructions=failed)


def _stored_layouts(context: Context) -> list[str] | None:
    """What the store holds of layouts; None, and nothing is completed, while it does not say.

    Asked outside any transaction: it may be slow, and everybody who writes would wait for it.
    """
    try:
        return list(context.store.names("layouts"))
    except OSError as error:
        log.warning("the store does not say what it holds: %s", error.strerror)
        return None


def _advance_one(
    context: Context,
    session: WriteSession,
    erasure: Erasure,
    present: dict[str, Cluster],
    *,
    failed_destructions: int | None,
) -> None:
    """`failed_destructions` is None once all bytes are gone."""
    found = [_progress(context, session, erasure, touched, present) for touched in erasure.clusters]
    for touched, (reached, prompt) in zip(erasure.clusters, found, strict=True):
        if (touched.state, touched.prompt_after) != (reached, prompt):
            erasures.set_cluster(session, erasure.id, touched.cluster, state=reached, prompt_after=prompt)
    reached_states = {reached for reached, _ in found}
    stuck = (failed_destructions or 0) >= context.settings.training.attempts
    if failed_destructions is None and reached_states <= {states.COMPLETED, states.REMOVED}:
        after = states.COMPLETED
    else:
        after = states.FAILED if stuck or states.FAILED in reached_states else states.RETRAINING
    if states.may_change(erasure.state, after):
        done = max(context.clock(), erasure.accepted_at) if after == states.COMPLETED else None
        erasures.set_state(session, erasure.id, state=after, completed_at=done)


def _progress(
    context: Context,
    session: ReadSession,
    erasure: Erasure,
    touched: TouchedCluster,
    present: dict[str, Cluster],
) -> tuple[str, str | None]:
    """State of one touched cluster, and the prompt it serves in place of the old one."""
    if touched.state in (states.COMPLETED, states.REMOVED):
        return touched.state, touched.prompt_after
    cluster = present.get(touched.cluster)
    if cluster is None:
        return states.REMOVED, None
    if cluster.serving_key is not None:
        built = prompts.get(session, [cluster.serving_key]).get(cluster.serving_key)  # None: replaced just now
        # Built after the plan that knew of the erasure, or just what that plan asks for.
        later = built is not None and built.published_epoch > (erasure.planned_epoch or 0)
        if later or cluster.serving_key == cluster.desired_key:
            return states.COMPLETED, cluster.serving_key
    if cluster.attempts >= context.settings.training.attempts:
        return states.FAILED, None
    return states.RETRAINING, None

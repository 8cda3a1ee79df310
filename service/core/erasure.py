"""Accepting erasures, and quoting them.

Accepting is one transaction: the samples' rows are deleted, and every prompt that has seen them is withdrawn; if there
was one, the serving epoch moves on. The rest is recorded as open work: planning and deleting bytes, for
`core.reconcile` in replicas and workers; training, for workers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from models.spec import adapter_size
from service import tracing
from service.core import budgets, layouts
from service.core.context import Context
from service.core.rebalance import CountFromClusters
from service.errors import NotFound, Unavailable
from service.registry import (
    adapted,
    backoff,
    clusters,
    descriptions,
    destructions,
    erasure_progress,
    erasures,
    evaluation,
    feed,
    idempotency,
    layout_state,
    prompts,
    samples,
    state,
)
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster, Erasure, Sample, Tombstone
from service.registry.roles import CORE, EVALUATION, TRAINING

TRIES = 5


class _Raced(Exception):
    """Another erasure has deleted one of these samples first."""


def erase_sample(context: Context, sample_id: str, *, key_id: str | None = None) -> Erasure:
    """Accept the erasure of one sample. Raises NotFound, also for a sample that has been erased; OverBudget."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for(session, sample_id)

    def find(session: ReadSession) -> list[Sample]:
        return samples.find(session, [sample_id])

    return _accept(context, find, already, missing=f"There is no sample {sample_id}.", key_id=key_id)


def erase_owner(
    context: Context, owner: str, *, key_id: str | None = None, idempotency_key: str | None = None
) -> Erasure:
    """Accept the erasure of all samples of an owner. Raises NotFound for an owner without samples; OverBudget."""

    def already(session: ReadSession) -> Erasure | None:
        return erasures.running_for_owner(session, owner)

    def find(session: ReadSession) -> list[Sample]:
        return samples.of_owner(session, owner)

    missing = "This owner has no samples."
    return _accept(context, find, already, missing=missing, owner=owner, key_id=key_id, idempotency_key=idempotency_key)


def erase_samples(
    context: Context, sample_ids: Sequence[str], *, key_id: str | None = None, idempotency_key: str | None = None
) -> Erasure:
    """Accept the erasure of these samples, all or none.

    Raises NotFound, naming those that do not exist; OverBudget.
    """

    def find(session: ReadSession) -> list[Sample]:
        found = samples.find(session, sample_ids)
        require_all(sample_ids, found)
        return found

    return _accept(
        context,
        find,
        lambda session: None,
        missing="No samples are named.",
        key_id=key_id,
        idempotency_key=idempotency_key,
    )


def require_all(sample_ids: Sequence[str], found: Sequence[Sample]) -> None:
    """Raise NotFound, naming up to ten ids that were not found."""
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
    key_id: str | None,
    idempotency_key: str | None = None,
) -> Erasure:
    """The erasure, new or still running. `key_id` is the API key that it is charged to. Raises OverBudget."""
    for _ in range(TRIES):
        try:
            with context.registry.write() as session:
                found = find(session)
                running = already(session) if not found else None
                if not found and running is None:
                    raise NotFound(missing)
                if running is None:
                    budgets.spend(context, session, key_id, budgets.ERASURES)
                accepted = running or _erase(context, session, found, owner=owner)
                if idempotency_key is not None:
                    idempotency.finish(session, idempotency_key, accepted.id)
                return accepted
        except _Raced:
            continue
    raise Unavailable("Other erasures of the same samples are being accepted. Try again.")


def replay(context: Context, session: WriteSession, tombstone: Tombstone) -> Erasure | None:
    """Accept an erasure again that a restored registry has lost; under its old id, unless that is on record.

    None if the erasure is on record and nothing of its samples has come back.

    In an exclusive transaction, so that no other process replays it at the same time. Samples without a row count as
    well: a prompt may have seen them, and their objects may exist.
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
    """The accepting transaction: once it commits, nothing that knows the samples is used any more.

    1. Lock the clusters concerned, in the order of their ids, as every transaction does.
    2. Count the setbacks, end the trainings of clusters that lose samples, and delete the samples' rows.
    3. Withdraw every prompt that has seen one of the samples.
    4. Move the serving epoch on if a prompt was withdrawn, or an anchor erased: no replica answers with it any more.
    5. Forget the digests of the requests that made the samples.
    6. Record the erasure, with the clusters that it changes.
    7. Schedule the deletion of prompts, of the samples' objects and of what ended trainings have stored.
    8. Number the removals for the closed-form tiers of all replicas, and those of evaluation samples, which no cluster
       and no prompt knows, for what replicas have computed from them.

    replayed  accept again the erasure of this tombstone, which the registry has lost with a restored backup.
    """
    now = context.clock()
    ids = [sample.id for sample in found] if replayed is None else list(replayed.samples)
    # 1. Lock the clusters.
    gone = Counter(sample.cluster for sample in found if sample.cluster is not None)
    adapter, publication = clusters.adapter(session), adapted.publication_in_force(session)
    if adapter is not None and (in_core := sum(sample.role == CORE for sample in found)):
        gone[adapter.id] = in_core
    known_to = prompts.containing(session, ids)
    clusters.lock(session, list(gone), serving=known_to)
    # 2. Count setbacks, end trainings, delete rows.
    undescribed = descriptions.among(session, [one.id for one in found], context.backbone.kind.name, role=TRAINING)
    unadapted = adapted.among(session, [one.id for one in found], publication) if publication is not None else set()
    backoff.set_back(session, list(gone), known_to, now=now, backoff=context.backoff)
    leases = [clusters.remove_members(session, cluster, count) for cluster, count in sorted(gone.items())]
    if samples.delete(session, ids) != len(found):
        raise _Raced
    # 3. Withdraw the prompts.
    seen_by = prompts.containing(session, ids)
    withdrawn = clusters.withdraw(session, seen_by, now=now)
    if replayed is not None:  # a restored prompt may have seen samples whose rows were not restored
        leases += [clusters.remove_members(session, cluster, 0) for cluster in sorted(set(withdrawn) - set(gone))]
    # 4. Move the serving epoch on. An erased anchor no longer has a say in where other samples are routed.
    if layout_state.forget_anchors(session, ids) or withdrawn:
        state.bump_epoch(session)
    # 5. Forget requests.
    idempotency.forget_requests(session, ids)
    # 6. Record the erasure.
    erasure_id = erasures.create(
        session,
        owner=owner,
        sample_ids=ids,
        affected={cluster: withdrawn.get(cluster) for cluster in sorted({*gone, *withdrawn})},
        now=now,
        due=timedelta(days=context.settings.erasure_due_days),
        known_as=replayed if replayed and erasures.get(session, replayed.erasure) is None else None,
    )
    if not found and not withdrawn:  # no plan is out of date, and no owner left: nothing is to be planned
        erasure_progress.note_planned(session, erasure_id, epoch=state.epoch(session))
    # 7. Schedule deletions.
    prompts.drop_unserved(session, among=seen_by, erasure_id=erasure_id)
    objects = [samples.object_name(i) for i in ids]
    described = [adapted.object_name(publication, i) for i in ids] if publication is not None else []
    destructions.schedule(session, [*objects, *described], erasure_id=erasure_id)
    for lease in filter(None, leases):
        prompts.destroy_unpublished(session, [lease.token], erasure_id=erasure_id, held_until=lease.until)
    # 8. Number the removals: last, because other transactions wait for the numbers.
    learned = [samples.object_name(sample.id) for sample in found if sample.role != EVALUATION]
    held_out = [samples.object_name(sample.id) for sample in found if sample.role == EVALUATION]
    feed.note_removals(session, learned, undescribed=len(undescribed), beside=described)
    adapted.note_removals(session, undescribed=len(unadapted))
    evaluation.note_removals(session, held_out)
    accepted = erasures.get(session, erasure_id)
    assert accepted is not None  # made in step 6
    return accepted


@dataclass(frozen=True)
class Quote:
    """The estimated cost of an erasure. `seconds` is None before anything has been trained.

    described  samples that would be described anew, because the adapter would be another.
    """

    samples: int
    clusters: tuple[str, ...]
    sample_epochs: int
    seconds: float | None
    full_sample_epochs: int
    described: int = 0


def quote(context: Context, *, sample_ids: Sequence[str] = (), owner: str | None = None) -> Quote:
    """The cost of an erasure: cuts the line as it would be cut, and counts samples to be trained on. Changes nothing.

    Where the erasure would change a fitted layout, any sample may move: then the quote is an upper bound, everything.
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
    existing = clusters.every(session)
    count = CountFromClusters(session, existing)
    learned = [sample for sample in found if sample.role != EVALUATION]
    places = sorted(sample.position for sample in learned if sample.position is not None)

    def left(lo: int, hi: int) -> int:
        return count(lo, hi) - (bisect_left(places, hi) - bisect_left(places, lo))

    regions = {(cluster.lo, cluster.hi) for cluster in existing}
    affected = {sample.cluster for sample in learned if sample.cluster is not None}
    retrained: list[int] = []  # members of each cluster that would be trained again
    cut = {region: left(*region) for region in context.partition.cut(left)}
    gone = [sample.id for sample in learned]
    if layout_state.digest(session) != layouts.wanted_now(context, session, without=gone)[0]:
        affected, retrained = {cluster.id for cluster in existing if cluster.samples}, list(cut.values())
    else:
        for region, members in cut.items():
            if (region.lo, region.hi) not in regions or members != count(*region):
                retrained.append(members)
                affected |= {c.id for c in existing if c.lo < region.hi and region.lo < c.hi and c.samples}
    work, everything = _sample_epochs(context, retrained), _sample_epochs(context, cut.values())
    described = 0
    adapter = clusters.adapter(session)
    if adapter is not None:
        before, after = _adapted_by(session), _adapted_by(session, without=gone)
        anew = context.adapting.epochs_of(len(after)) * len(after)
        everything += anew
        if before != after:
            work += anew
            affected.add(adapter.id)
            described = sum(cut.values()) if after else 0
    pace = _seconds_per_sample_epoch(session, [*existing, *([adapter] if adapter is not None else [])])
    return Quote(
        samples=len(found),
        clusters=tuple(sorted(affected)),
        sample_epochs=work,
        seconds=work * pace if pace is not None else None,
        full_sample_epochs=everything,
        described=described,
    )


def _adapted_by(session: ReadSession, without: Sequence[str] = ()) -> list[str]:
    """The core samples that the adapter is to be trained on, `without` some."""
    gone = set(without)
    core = [member.id for member in samples.core(session) if member.id not in gone]
    return core[: adapter_size(len(core))]


def _sample_epochs(context: Context, members: Iterable[int]) -> int:
    """What training clusters of so many members takes."""
    return sum(count * context.training.epochs_of(count) for count in members)


def _seconds_per_sample_epoch(session: ReadSession, existing: Sequence[Cluster]) -> float | None:
    built = prompts.get(session, [c.serving_key for c in existing if c.serving_key]).values()
    work = sum(prompt.sample_epochs for prompt in built)
    return sum(prompt.seconds for prompt in built) / work if work else None

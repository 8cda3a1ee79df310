"""Keeping the plan, as samples come and go: re-cut where counts have crossed a bound, recompute changed keys.

Must arrive at what `core.plan` computes from nothing. It does so from the clusters' own counts, looking into a cluster
only where the cut divides it, and it moves only the samples whose cluster changes. One exclusive transaction.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from models.partition import Interval
from models.spec import member_digest, prompt_key
from service.core import states
from service.core.context import Context, require_bound
from service.registry import clusters, erasures, prompts, samples, state
from service.registry.clusters import Timing
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster


class CountFromClusters:
    """How many survivors stand in an interval, from the clusters' counts; partial clusters are counted in SQL."""

    def __init__(self, session: ReadSession, held: Sequence[Cluster]) -> None:
        self._session = session
        self._held = held
        self._starts = [cluster.lo for cluster in held]
        self._before = [0, *accumulate(cluster.samples for cluster in held)]
        self._known: dict[int, int] = {}

    def __call__(self, lo: int, hi: int) -> int:
        """Survivors at lo <= position < hi."""
        return self._below(hi) - self._below(lo)

    def _below(self, position: int) -> int:
        if position not in self._known:
            self._known[position] = self._count_below(position)
        return self._known[position]

    def _count_below(self, position: int) -> int:
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return 0
        cluster = self._held[index]
        if position == cluster.lo:
            return self._before[index]
        if position >= cluster.hi:
            return self._before[index + 1]
        return self._before[index] + samples.count_between(self._session, cluster.lo, position)


@dataclass(frozen=True)
class _Change:
    """A region that the new cut has and the old one had not, with the clusters it takes samples from."""

    region: Interval
    count: int
    sources: tuple[tuple[int, Cluster], ...]  # (samples taken, cluster), most first


def replan(context: Context) -> bool:
    """Bring the plan up to date; whether anything had changed."""
    with context.registry.read() as session:
        if not clusters.to_plan(session, context.clock()):
            return False
    with context.registry.write(exclusive=True) as session:
        require_bound(context, session)
        held = clusters.every(session)
        count = CountFromClusters(session, held)
        changed = _recut(context, session, held, context.partition.cut(count), count)
        _plan_keys(context, session)
        prompts.drop_unserved(session)
        samples.prune_owners(session)
        _note_erasures(session, changed)
    return True


def _recut(
    context: Context,
    session: WriteSession,
    held: Sequence[Cluster],
    cut: Sequence[Interval],
    count: CountFromClusters,
) -> dict[str, set[str]]:
    """Move from the old regions to the new; for each cluster whose region is new or another, where its samples were."""
    old = {Interval(cluster.lo, cluster.hi): cluster for cluster in held}
    gone = {cluster.id: cluster for region, cluster in old.items() if region not in set(cut)}
    if not gone and len(cut) == len(held):
        return {}
    changes = [_change(region, list(gone.values()), count) for region in cut if region not in old]
    changed = {}
    # Rows are kept for the region that takes most of their samples, so that a split or a merge moves few ids.
    for change in sorted(changes, key=lambda change: -change.sources[0][0] if change.sources else 0):
        kept = next((source for _, source in change.sources if source.id in gone), None)
        if kept is not None:
            del gone[kept.id]
        cluster_id = _apply(context, session, change, kept)
        changed[cluster_id] = {source.id for taken, source in change.sources if taken}
    prompts.destroy_unpublished(session, clusters.delete(session, list(gone)))
    state.bump_epoch(session)
    return changed


def _change(region: Interval, candidates: Sequence[Cluster], count: CountFromClusters) -> _Change:
    sources = []
    for cluster in candidates:
        lo, hi = max(region.lo, cluster.lo), min(region.hi, cluster.hi)
        if lo < hi:
            sources.append((count(lo, hi), cluster))
    sources.sort(key=lambda source: (-source[0], source[1].lo))
    return _Change(region, count(*region), tuple(sources))


def _apply(context: Context, session: WriteSession, change: _Change, kept: Cluster | None) -> str:
    """Make the cluster of a changed region. It inherits what is served there, which only survivors have built."""
    givers = [cluster for taken, cluster in change.sources if taken]
    timing = Timing(
        urgent=any(cluster.urgent for cluster in givers),
        settles_at=max((c.settles_at for c in givers if c.settles_at), default=None),
        unsettled_since=min((c.unsettled_since for c in givers if c.unsettled_since), default=None),
    )
    region = change.region
    if kept is None:
        serving = next((cluster.serving_key for cluster in givers if cluster.serving_key), None)
        cluster_id = clusters.create(session, lo=region.lo, hi=region.hi, now=context.clock(), serving_key=serving)
    else:
        cluster_id = kept.id
    token = clusters.reshape(session, cluster_id, lo=region.lo, hi=region.hi, samples=change.count, timing=timing)
    prompts.destroy_unpublished(session, [token] if token else [])
    samples.move(session, lo=region.lo, hi=region.hi, cluster=cluster_id)
    return cluster_id


def key_of(context: Context, members: Sequence[samples.Member]) -> str:
    """The key of a prompt with these members, in arrival order."""
    return prompt_key(
        backbone_digest=context.backbone.digest,
        training=context.training,
        members=[member_digest(member.digest, member.label) for member in members],
    )


def _plan_keys(context: Context, session: WriteSession) -> None:
    """Compute the keys of clusters that have changed; serve those that happen to be built already."""
    for cluster_id in clusters.to_plan(session, context.clock()):
        members = samples.members(session, cluster_id)
        key = key_of(context, members)
        clusters.plan(session, cluster_id, key, through=members[-1].seq if members else 0)
        if prompts.get(session, [key]):
            state.bump_epoch(session)
            clusters.adopt(session, cluster_id, key)


def _note_erasures(session: WriteSession, changed: Mapping[str, set[str]]) -> None:
    """Erasures accepted since the last plan answer for everything that this plan has changed.

    An older one answers for where the samples of its clusters have gone, while those were not served yet.
    """
    epoch = state.epoch(session)
    for erasure in erasures.unfinished(session):
        settled = (states.COMPLETED, states.REMOVED)
        owed = {touched.cluster for touched in erasure.clusters if touched.state not in settled}
        new = erasure.planned_epoch is None
        erasures.touch(session, erasure.id, [c for c, sources in changed.items() if new or sources & owed])
        if new:
            erasures.set_state(session, erasure.id, state=states.RETRAINING, planned_epoch=epoch)

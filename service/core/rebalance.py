"""Rebalancing: clusters get other regions where counts have crossed a bound, or after a relayout (`core.relayout`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from models.partition import Interval
from service.core.context import Context
from service.registry import clusters, prompts, samples, state
from service.registry.clusters import EndedLease, Timing
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster


class CountFromClusters:
    """The number of survivors in an interval: from the clusters' counts, and from SQL where a cluster is cut."""

    def __init__(self, session: ReadSession, existing: Sequence[Cluster]) -> None:
        self._session = session
        self._existing = existing
        self._starts = [cluster.lo for cluster in existing]
        self._before = [0, *accumulate(cluster.samples for cluster in existing)]
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
        cluster = self._existing[index]
        if position == cluster.lo:
            return self._before[index]
        if position >= cluster.hi:
            return self._before[index + 1]
        return self._before[index] + samples.count_between(self._session, cluster.lo, position)


@dataclass(frozen=True)
class Change:
    """A region that a cluster is to have, with the clusters that its samples come from."""

    region: Interval
    count: int
    sources: tuple[tuple[int, Cluster], ...]  # (samples taken, cluster), most first

    def predecessors(self, share: float) -> list[Cluster]:
        """Clusters that give at least this share of the samples: it may keep the row of one, and serve its prompt."""
        return [cluster for taken, cluster in self.sources if taken >= share * self.count]

    @property
    def is_real(self) -> bool:
        """Whether the region has other members than any cluster had before."""
        return not (len(self.sources) == 1 and self.sources[0][0] == self.sources[0][1].samples)


def rebalance(context: Context, session: WriteSession) -> dict[str, set[str]]:
    """Cut the line by the present counts; for each cluster with a new region, the clusters that its samples were in."""
    existing = clusters.every(session)
    if not existing:
        return {}
    count = CountFromClusters(session, existing)
    cut = context.partition.cut(count)
    old = {Interval(cluster.lo, cluster.hi): cluster for cluster in existing}
    kept = set(cut)
    gone = [cluster for region, cluster in old.items() if region not in kept]
    if not gone and len(cut) == len(existing):
        return {}
    changes = [_change(region, gone, count) for region in cut if region not in old]
    return reshape(context, session, changes, gone=gone, share=0.0)


def _change(region: Interval, candidates: Sequence[Cluster], count: CountFromClusters) -> Change:
    sources = []
    for cluster in candidates:
        lo, hi = max(region.lo, cluster.lo), min(region.hi, cluster.hi)
        if lo < hi:
            sources.append((count(lo, hi), cluster))
    sources.sort(key=lambda source: (-source[0], source[1].lo))
    return Change(region, count(*region), tuple(sources))


def reshape(
    context: Context, session: WriteSession, changes: Sequence[Change], *, gone: Sequence[Cluster], share: float
) -> dict[str, set[str]]:
    """Carry changes out, and delete those of the clusters `gone` that no region keeps; sources, by changed cluster.

    A row is kept for the region that takes most of its samples, so that a split or a merge moves few of them.

    share  the least part of a region's samples that must come from a cluster for its row, or its prompt, to be kept.
    """
    left = {cluster.id: cluster for cluster in gone}
    changed = {}
    for change in sorted(changes, key=lambda change: -change.sources[0][0] if change.sources else 0):
        predecessors = change.predecessors(share)
        kept = next((cluster for cluster in predecessors if cluster.id in left), None)
        if kept is not None:
            del left[kept.id]
        serving = next((cluster.serving_key for cluster in predecessors if cluster.serving_key), None)
        cluster_id = _apply(context, session, change, kept, serving)
        if change.is_real:
            changed[cluster_id] = {source.id for taken, source in change.sources if taken}
    _destroy_unpublished(session, clusters.delete(session, list(left)))
    state.bump_epoch(session)
    return changed


def _apply(context: Context, session: WriteSession, change: Change, kept: Cluster | None, serving: str | None) -> str:
    """Make the cluster of a changed region; its id. It goes on serving what was served there, built of survivors."""
    givers = [cluster for taken, cluster in change.sources if taken]
    timing = Timing(
        urgent=any(cluster.urgent for cluster in givers),
        settles_at=max((c.settles_at for c in givers if c.settles_at), default=None),
        unsettled_since=min((c.unsettled_since for c in givers if c.unsettled_since), default=None),
        setbacks=max((c.setbacks for c in givers), default=0),
        retrain_at=max((c.retrain_at for c in givers if c.retrain_at), default=None),
    )
    region = change.region
    if kept is None:
        cluster_id = clusters.create(session, lo=region.lo, hi=region.hi, now=context.clock(), serving_key=serving)
    else:
        cluster_id = kept.id
    ended = clusters.reshape(session, cluster_id, lo=region.lo, hi=region.hi, samples=change.count, timing=timing)
    _destroy_unpublished(session, [ended] if ended is not None else [])
    samples.move(session, lo=region.lo, hi=region.hi, cluster=cluster_id)
    return cluster_id


def _destroy_unpublished(session: WriteSession, ended: Sequence[EndedLease]) -> None:
    """Their workers may train on for a while: a sample that is erased meanwhile is in their memory."""
    for lease in ended:
        prompts.destroy_unpublished(session, [lease.token], held_until=lease.until)

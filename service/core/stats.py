"""Statistics of the whole service, from the registry, for /metrics: the same from every replica, and cheap.

A few small rows, however many samples there are: clusters are counted by the database, samples by their clusters,
completed erasures by a counter. Nothing here names a person, a label or a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from service.core import states
from service.core.context import Context
from service.registry import clusters, counters, destructions, erasures, feed, replicas, state, workers
from service.registry.counters import CounterValues


@dataclass(frozen=True)
class Stats:
    """Counts and ages (seconds; 0 if nothing waits) at one moment.

    behind             by live replica: removed samples that its closed-form tier has not subtracted yet.
    pending_deletions  objects that are to be deleted from the store.
    pausing            clusters that are not trained yet because deletions have set them back again and again.
    unrestored         erasures of which some cluster does not serve again.
    """

    epoch: int
    samples: int
    clusters: Mapping[str, int]
    oldest_change: float
    erasures: Mapping[str, int]
    oldest_erasure: float
    overdue: int
    workers: int
    behind: Mapping[str, int]
    pending_deletions: int
    pausing: int
    unrestored: int
    counters: CounterValues


def collect(context: Context) -> Stats:
    """The statistics of one moment."""
    now, fresh = context.clock(), context.settings.worker.fresh
    with context.registry.read() as session:
        counted = clusters.census(session, now=now, attempts=context.settings.training.attempts)
        waiting_since = clusters.waiting_since(session)
        backlog = erasures.backlog(session, now)
        removals = feed.marks(session).removals
        happened = counters.every(session)
        by_state = Counter(dict.fromkeys(states.CLUSTER_STATES, 0))
        for alike in counted:
            name = states.state_of(
                empty=alike.empty, failing=alike.failing, serving=alike.serving, withdrawn=alike.withdrawn
            )
            by_state[name] += alike.clusters
        completed = {states.COMPLETED: happened.count(counters.COMPLETION)}
        return Stats(
            epoch=state.epoch(session),
            samples=sum(alike.samples for alike in counted),
            clusters=by_state,
            oldest_change=_age(now, waiting_since),
            erasures=dict.fromkeys(erasures.OPEN, 0) | backlog.states | completed,
            oldest_erasure=_age(now, backlog.oldest),
            overdue=backlog.overdue,
            workers=sum(worker.is_alive(now, fresh) for worker in workers.every(session)),
            behind={
                replica.name: max(removals - replica.marks.removals, 0)
                for replica in replicas.every(session)
                if replica.is_alive(now, fresh)
            },
            pending_deletions=destructions.count(session),
            pausing=clusters.pausing(session, now),
            unrestored=erasures.count_unrestored(session),
            counters=happened,
        )


def _age(now: datetime, since: datetime | None) -> float:
    return max((now - since).total_seconds(), 0.0) if since is not None else 0.0

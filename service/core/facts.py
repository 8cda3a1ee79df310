"""What the registry says of the service as a whole, for /metrics: the same from every replica, and cheap.

A few small rows, whatever there is: clusters are counted by the database, samples by their clusters, completed erasures
by their tally. Nothing here names a person, a label or a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from service.core import states
from service.core.context import Context
from service.registry import clusters, erasures, feed, prompts, replicas, state, tallies, workers
from service.registry.tallies import Tallies


@dataclass(frozen=True)
class Facts:
    """Counts and ages (seconds; 0 if nothing waits) at one moment.

    behind  by live replica: removed samples that its closed-form tier has not taken out yet.
    owed    objects that must be destroyed.
    pausing clusters that deletions have set back again and again, and that are not trained yet for it.
    unrestored  erasures of which some cluster does not serve again.
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
    owed: int
    pausing: int
    unrestored: int
    tallies: Tallies


def gather(context: Context) -> Facts:
    """All of it, as of one moment."""
    now, fresh = context.clock(), context.settings.worker.fresh
    with context.registry.read() as session:
        counted = clusters.census(session, now=now, attempts=context.settings.training.attempts)
        waiting_since = clusters.waiting_since(session)
        backlog = erasures.backlog(session, now)
        removals = feed.marks(session).removals
        happened = tallies.every(session)
        by_state = Counter(dict.fromkeys(states.CLUSTER_STATES, 0))
        for alike in counted:
            name = states.state_of(
                empty=alike.empty, failing=alike.failing, serving=alike.serving, withdrawn=alike.withdrawn
            )
            by_state[name] += alike.clusters
        completed = {states.COMPLETED: happened.count(tallies.COMPLETION)}
        return Facts(
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
            owed=prompts.count_owed(session),
            pausing=clusters.pausing(session, now),
            unrestored=erasures.count_unrestored(session),
            tallies=happened,
        )


def _age(now: datetime, since: datetime | None) -> float:
    return max((now - since).total_seconds(), 0.0) if since is not None else 0.0

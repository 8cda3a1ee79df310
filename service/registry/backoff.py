"""Clusters that deletions take prompts from, again and again, are retrained at growing intervals.

A deletion withdraws a prompt at once; training its successor may wait. Whoever deletes a sample whenever a prompt is
back, or faster than a prompt can be trained, would otherwise keep the workers busy with trainings that come to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.registry.engine import WriteSession
from service.registry.tables import ClusterRow, PromptRow

FREE = 1  # setbacks in a row after which a training still begins at once: deletions do come in twos


@dataclass(frozen=True)
class Backoff:
    """How long a cluster waits to be retrained: `first`, then twice as long each time, and at most `longest`."""

    first: timedelta
    longest: timedelta

    def pause(self, setbacks: int) -> timedelta:
        """Before the training after so many setbacks in a row."""
        if setbacks <= FREE:
            return timedelta(0)
        doublings = min(setbacks - FREE - 1, 20)  # of any pause that is worth the name, more than a year
        return min(self.first * 2.0**doublings, self.longest)

    def probation(self, setbacks: int) -> timedelta:
        """How long a prompt must have served for its loss not to be one setback more."""
        return max(self.first, self.pause(setbacks))


def set_back(
    session: WriteSession, cluster_ids: Sequence[str], prompt_keys: Sequence[str], *, now: datetime, backoff: Backoff
) -> None:
    """Samples of these clusters, and these prompts, are about to go: note what that takes from whom.

    A setback is the loss of a training under way, or of a prompt that has not served for long. A cluster that lost
    nothing, because it waits already, goes on waiting. The caller holds the locks of these clusters.
    """
    concerned = sa.or_(ClusterRow.id.in_(cluster_ids), ClusterRow.serving_key.in_(prompt_keys))
    columns = (ClusterRow.id, ClusterRow.setbacks, ClusterRow.lease_token, ClusterRow.serving_key, PromptRow.trained_at)
    rows = sa.select(*columns).outerjoin(PromptRow, PromptRow.key == ClusterRow.serving_key).where(concerned)
    losing_samples, withdrawn = set(cluster_ids), set(prompt_keys)
    for cluster_id, setbacks, lease, prompt, trained_at in session.execute(rows).all():
        if prompt in withdrawn:
            served = now - trained_at
            setbacks = 0 if served >= backoff.probation(setbacks) else setbacks + 1
        elif lease is not None and cluster_id in losing_samples:
            setbacks += 1
        else:
            continue
        pause = backoff.pause(setbacks)
        values = {"setbacks": setbacks, "retrain_at": now + pause if pause else None}
        session.execute(sa.update(ClusterRow).where(ClusterRow.id == cluster_id).values(**values))

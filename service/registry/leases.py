"""Leases: which worker trains a cluster, and which prompt it may publish.

Every claim and publication is a compare-and-swap, checked by the number of changed rows: `FOR UPDATE SKIP LOCKED` has
no effect on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry.backoff import Backoff
from service.registry.clusters import FRESH, NO_LEASE, UP_TO_DATE, differs
from service.registry.engine import ReadSession, WriteSession
from service.registry.tables import ClusterRow

SKEW = timedelta(seconds=5)  # most that the clocks of synchronised machines differ
MAX_PAUSE = timedelta(seconds=600)  # between two trainings of a cluster that fails


Pause = Callable[[int], timedelta]  # the pause of a cluster after so many failures

KILLED = "A worker process ended while it trained this: killed, or out of memory. See the workers' logs."


def _waiting(now: datetime, patience: timedelta, *, urgent: bool = False) -> sa.ColumnElement[bool]:
    """The condition that a cluster can be claimed: planned, different from what it serves, debounced (no additions for
    a while), not leased, and not pausing after a failure or after setbacks.

    patience  the longest time that a stream of additions can delay a training.
    urgent    only clusters that an erasure took a member or a prompt from.
    """
    return sa.and_(
        ClusterRow.urgent if urgent else sa.true(),
        ClusterRow.desired_key.is_not(None),
        differs(),
        sa.or_(ClusterRow.leased_until.is_(None), ClusterRow.leased_until <= now),
        sa.or_(ClusterRow.retry_at.is_(None), ClusterRow.retry_at <= now),
        sa.or_(ClusterRow.retrain_at.is_(None), ClusterRow.retrain_at <= now),
        sa.or_(
            ClusterRow.urgent,
            ClusterRow.settles_at.is_(None),
            ClusterRow.settles_at <= now,
            ClusterRow.unsettled_since <= now - patience,
        ),
    )


def mend_times(
    session: WriteSession, *, now: datetime, lease: timedelta, settle: timedelta, backoff: Backoff, pause: Pause
) -> None:
    """After the clock was set back: shorten times that are further in the future than they could have been set."""
    ahead = _ahead(now, lease=lease, settle=settle, backoff=backoff)
    rows = session.execute(sa.select(ClusterRow).where(ahead)).scalars()
    for row in rows:
        if row.leased_until is not None:
            row.leased_until = min(row.leased_until, now + lease)
        if row.settles_at is not None:
            row.settles_at = min(row.settles_at, now + settle)
        if row.unsettled_since is not None:
            row.unsettled_since = min(row.unsettled_since, now)
        if row.retry_at is not None:
            row.retry_at = min(row.retry_at, now + pause(row.attempts))
        if row.retrain_at is not None:
            row.retrain_at = min(row.retrain_at, now + backoff.pause(row.setbacks))
    session.flush()


def are_times_ahead(
    session: ReadSession, *, now: datetime, lease: timedelta, settle: timedelta, backoff: Backoff
) -> bool:
    """Whether `mend_times` may have something to mend."""
    ahead = _ahead(now, lease=lease, settle=settle, backoff=backoff)
    return session.execute(sa.select(sa.exists().where(ahead))).scalar_one()


def _ahead(now: datetime, *, lease: timedelta, settle: timedelta, backoff: Backoff) -> sa.ColumnElement[bool]:
    late = now + SKEW  # else times that another process has written since `now` was read would count
    return sa.or_(
        ClusterRow.leased_until > late + lease,
        ClusterRow.settles_at > late + settle,
        ClusterRow.unsettled_since > late,
        ClusterRow.retry_at > late + MAX_PAUSE,
        ClusterRow.retrain_at > late + backoff.longest,
    )


def waiting(session: ReadSession, *, now: datetime, patience: timedelta, urgent: bool = False) -> int:
    """The number of clusters that a worker could claim now; with `urgent`, of those that erasures changed."""
    return session.execute(sa.select(sa.func.count()).where(_waiting(now, patience, urgent=urgent))).scalar_one()


@dataclass(frozen=True)
class Claim:
    """A lease on a cluster: train `key`, publish with `token`.

    through   the last member that the key covers, in the order of arrival.
    replaced  the token of the expired lease that this one replaces.
    is_adapter  whether it is the adapter, whose members are core samples.
    """

    cluster: str
    key: str
    through: int
    token: str
    replaced: str | None
    is_adapter: bool = False


def claim(
    session: WriteSession, *, worker: str, now: datetime, lease: timedelta, patience: timedelta, urgent: bool = False
) -> Claim | None:
    """Lease the most urgent waiting cluster: deletions first (and only those, if `urgent`), then clusters that serve
    nothing.

    Clusters that another transaction is changing are passed over: a claim waits for no lock, so it cannot deadlock.
    """
    candidate = (
        sa.select(
            ClusterRow.id,
            ClusterRow.desired_key,
            ClusterRow.planned_through,
            ClusterRow.lease_token,
            ClusterRow.is_adapter,
        )
        .where(_waiting(now, patience, urgent=urgent), ClusterRow.desired_key.is_not(None))
        .order_by(ClusterRow.urgent.desc(), ClusterRow.serving_key.is_not(None), ClusterRow.settles_at, ClusterRow.lo)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    found = session.execute(candidate).one_or_none()
    if found is None:
        return None
    cluster_id, key, through, replaced, is_adapter = found
    assert key is not None  # by the condition above
    token = str(uuid7())
    values = {"lease_token": token, "leased_by": worker, "leased_until": now + lease}
    session.execute(sa.update(ClusterRow).where(ClusterRow.id == cluster_id).values(**values))
    return Claim(cluster_id, key, through, token, replaced, is_adapter)


def renew(session: WriteSession, claim: Claim, *, until: datetime) -> bool:
    """Extend a lease; False once it is lost, or its key is no longer desired."""
    return _swap(session, claim, {"leased_until": until}, ClusterRow.desired_key == claim.key)


def publish(session: WriteSession, claim: Claim) -> bool:
    """Serve the claimed key; False, changing nothing, if the key is no longer desired or the lease is lost."""
    values = {"serving_key": claim.key, "rebuild": False, **UP_TO_DATE, **NO_LEASE, **FRESH}
    return _swap(session, claim, values, ClusterRow.desired_key == claim.key)


def tokens(session: ReadSession) -> list[str]:
    """Tokens of all leases, expired ones included."""
    leased = sa.select(ClusterRow.lease_token).where(ClusterRow.lease_token.is_not(None))
    return [token for token in session.execute(leased).scalars() if token is not None]


def give_up(session: WriteSession, claim: Claim) -> bool:
    """Give a lease back without counting a failed try; False if it was lost."""
    return _swap(session, claim, dict(NO_LEASE))


def fail(session: WriteSession, claim: Claim, *, failure: str, retry_at: datetime, counted: bool = True) -> bool:
    """Give a lease back after a failed training, which is `counted` as a failed try or not; False if it was lost."""
    attempts = ClusterRow.attempts + (1 if counted else 0)
    values = {"attempts": attempts, "failure": failure, "retry_at": retry_at, **NO_LEASE}
    return _swap(session, claim, values)


def count_try(session: WriteSession, claim: Claim, *, failure: str, retry_at: datetime) -> bool:
    """Count the try of the expired lease that this one replaces; if this one expires too, no try before `retry_at`."""
    return _swap(session, claim, {"attempts": ClusterRow.attempts + 1, "failure": failure, "retry_at": retry_at})


def retry(session: WriteSession, cluster_id: str) -> bool:
    """Reset failed tries and setbacks of a cluster, so that a training may begin at once. False if there are none."""
    pausing = sa.or_(ClusterRow.attempts > 0, ClusterRow.retrain_at.is_not(None))
    waits = (ClusterRow.id == cluster_id, pausing, sa.or_(ClusterRow.unplanned, differs()))
    statement = sa.update(ClusterRow).where(*waits).values(**FRESH, setbacks=0, retrain_at=None)
    return _changed(session, statement) == 1


def end_left_behind(session: WriteSession, *, worker: str, now: datetime, pause: Pause) -> list[str]:
    """End the leases of a worker that was killed and has started again, each counted as a failed try; their tokens."""
    leased = sa.select(ClusterRow).where(ClusterRow.leased_by == worker).with_for_update(key_share=True)
    rows = session.execute(leased).scalars().all()
    tokens = [row.lease_token for row in rows if row.lease_token is not None]
    for row in rows:
        row.attempts += 1
        row.failure, row.retry_at = KILLED, now + pause(row.attempts)
        row.lease_token = row.leased_by = row.leased_until = None
    session.flush()
    return tokens


def release(session: WriteSession, *, worker: str) -> list[str]:
    """Give back every lease of a worker that stops in order, without counting a failed try; their tokens."""
    # Locked: a lease under which an earlier process of that name is publishing just now must not count as left behind.
    leased = sa.select(ClusterRow.lease_token).where(ClusterRow.leased_by == worker).with_for_update(key_share=True)
    tokens = [token for token in session.execute(leased).scalars() if token is not None]
    session.execute(sa.update(ClusterRow).where(ClusterRow.leased_by == worker).values(**NO_LEASE))
    return tokens


def _swap(
    session: WriteSession, claim: Claim, values: Mapping[str, object], *conditions: sa.ColumnElement[bool]
) -> bool:
    leased = (ClusterRow.id == claim.cluster, ClusterRow.lease_token == claim.token)
    statement = sa.update(ClusterRow).where(*leased, *conditions).values(**values)
    return _changed(session, statement) == 1


def _changed(session: WriteSession, statement: sa.Update) -> int:
    result = session.execute(statement)
    count: int = result.rowcount  # type: ignore[attr-defined]
    return count

"""Clusters: regions of the line, the prompt that each should serve, and the one that it serves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry import paging
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Cluster, Page
from service.registry.tables import ClusterRow, UtcDateTime

END = 2**63 - 1  # of the line
NO_LEASE = {"lease_token": None, "leased_by": None, "leased_until": None}
# The state of a cluster whose prompt is up to date; `settles_at` stays: members may have come during the training.
UP_TO_DATE = {"urgent": False, "unsettled_since": None, "withdrawn_at": None, "retrain_at": None}
FRESH = {"attempts": 0, "failure": None, "retry_at": None}


def _record(row: ClusterRow) -> Cluster:
    return Cluster(
        id=row.id,
        lo=row.lo,
        hi=row.hi,
        samples=row.samples,
        unplanned=row.unplanned,
        desired_key=row.desired_key,
        serving_key=row.serving_key,
        rebuild=row.rebuild,
        urgent=row.urgent,
        settles_at=row.settles_at,
        unsettled_since=row.unsettled_since,
        withdrawn_at=row.withdrawn_at,
        setbacks=row.setbacks,
        retrain_at=row.retrain_at,
        attempts=row.attempts,
        failure=row.failure,
        leased_until=row.leased_until,
        is_adapter=row.is_adapter,
    )


def every(session: ReadSession) -> list[Cluster]:
    """All clusters, along the line; without the adapter, which no position leads to."""
    rows = session.execute(sa.select(ClusterRow).where(~ClusterRow.is_adapter).order_by(ClusterRow.lo)).scalars()
    return [_record(row) for row in rows]


def count_samples(session: ReadSession) -> int:
    """The number of samples, by the clusters' own counts: fast, however many there are."""
    counted = sa.select(sa.func.coalesce(sa.func.sum(ClusterRow.samples), 0)).where(~ClusterRow.is_adapter)
    return session.execute(counted).scalar_one()


def adapter(session: ReadSession) -> Cluster | None:
    """The adapter, as a cluster of all core samples; None while there is none of them."""
    row = session.execute(sa.select(ClusterRow).where(ClusterRow.is_adapter)).scalar_one_or_none()
    return _record(row) if row is not None else None


def get(session: ReadSession, cluster_id: str) -> Cluster | None:
    """The cluster, or None."""
    row = session.execute(sa.select(ClusterRow).where(ClusterRow.id == cluster_id)).scalar_one_or_none()
    return _record(row) if row is not None else None


def page(session: ReadSession, *, limit: int, cursor: str | None = None) -> Page[Cluster]:
    """A page of clusters, oldest first."""
    statement = sa.select(ClusterRow).where(~ClusterRow.is_adapter).order_by(ClusterRow.id).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(ClusterRow.id > paging.decode_id(cursor))
    rows = session.execute(statement).scalars().all()
    return paging.page(rows, limit, item=_record, place=lambda row: row.id)


def covering(session: ReadSession, positions: Sequence[int]) -> list[str | None]:
    """For each position the id of the cluster that covers it, in one statement; None while there are no clusters."""
    if not positions:
        return []
    lowest = min(positions)  # its region is the last that begins no later, which an index finds
    begins = sa.select(sa.func.max(ClusterRow.lo)).where(ClusterRow.lo <= lowest).scalar_subquery()
    spanned = sa.select(ClusterRow.lo, ClusterRow.hi, ClusterRow.id).where(
        ClusterRow.lo >= sa.func.coalesce(begins, lowest), ClusterRow.lo <= max(positions)
    )
    regions = session.execute(spanned.order_by(ClusterRow.lo)).all()
    starts = [region[0] for region in regions]
    nearest = [bisect_right(starts, position) - 1 for position in positions]
    return [
        regions[index][2] if index >= 0 and position < regions[index][1] else None
        for index, position in zip(nearest, positions, strict=True)
    ]


def create_adapter(session: WriteSession, *, now: datetime) -> str:
    """Create the adapter; its id. In an exclusive transaction: there is to be one."""
    return create(session, lo=END, hi=END, now=now, is_adapter=True)


def create(
    session: WriteSession,
    *,
    lo: int,
    hi: int,
    now: datetime,
    serving_key: str | None = None,
    is_adapter: bool = False,
) -> str:
    """Create a cluster without members; its id."""
    row = ClusterRow(
        id=str(uuid7()),
        lo=lo,
        hi=hi,
        is_adapter=is_adapter,
        samples=0,
        unplanned=True,
        planned_through=0,
        serving_key=serving_key,
        rebuild=False,
        urgent=False,
        setbacks=0,
        attempts=0,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def count_added(session: WriteSession, cluster_id: str, count: int, *, settles_at: datetime, now: datetime) -> None:
    """Count new members: the plan is out of date, and training waits until additions pause.

    A training under way goes on: its prompt will lack the new members, and is of survivors only.
    """
    session.execute(
        sa.update(ClusterRow)
        .where(ClusterRow.id == cluster_id)
        .values(
            samples=ClusterRow.samples + count,
            unplanned=True,
            settles_at=settles_at,
            unsettled_since=sa.func.coalesce(ClusterRow.unsettled_since, sa.literal(now, UtcDateTime())),
        )
    )


def lock(session: WriteSession, cluster_ids: Sequence[str], *, serving: Sequence[str] = ()) -> None:
    """Lock these clusters, and those that serve these prompts, in the order of their ids, as every transaction does.

    To be called before any other row is locked but that of the API key's budget: clusters come before the state row,
    which has the serving epoch.
    """
    concerned = sa.or_(ClusterRow.id.in_(cluster_ids), ClusterRow.serving_key.in_(serving))
    statement = sa.select(ClusterRow.id).where(concerned).order_by(ClusterRow.id)
    session.execute(statement.with_for_update(key_share=True)).all()


class EndedLease(NamedTuple):
    """A lease that was ended before its time.

    until  when it would have run out. Its worker trains on until it notices the end, and gives up at `until` even if it
           has not.
    """

    token: str
    until: datetime


def remove_members(session: WriteSession, cluster_id: str, count: int) -> EndedLease | None:
    """Count members off that are erased, and end the cluster's lease: its plan is void, and training is urgent.

    The lease that was ended, if there was one. Its worker can publish nothing any more.
    """
    lease = _lease(session, cluster_id)
    session.execute(
        sa.update(ClusterRow)
        .where(ClusterRow.id == cluster_id)
        .values(
            samples=ClusterRow.samples - count,
            unplanned=True,
            desired_key=None,
            urgent=True,
            **NO_LEASE,
            **FRESH,
        )
    )
    return lease


def _lease(session: WriteSession, cluster_id: str) -> EndedLease | None:
    columns = sa.select(ClusterRow.lease_token, ClusterRow.leased_until).where(ClusterRow.id == cluster_id)
    # key_share: an intake that has named this cluster in a new sample does not stand in the way
    token, until = session.execute(columns.with_for_update(key_share=True)).one_or_none() or (None, None)
    return EndedLease(token, until) if token is not None and until is not None else None


def withdraw(session: WriteSession, prompt_keys: Sequence[str], *, now: datetime) -> dict[str, str]:
    """Stop serving these prompts in every cluster, and make new trainings urgent; the withdrawn key by cluster id."""
    if not prompt_keys:
        return {}
    serving = sa.select(ClusterRow.id, ClusterRow.serving_key).where(ClusterRow.serving_key.in_(prompt_keys))
    locking = serving.order_by(ClusterRow.id).with_for_update(key_share=True)
    withdrawn = {row[0]: row[1] or "" for row in session.execute(locking)}
    session.execute(
        sa.update(ClusterRow)
        .where(ClusterRow.serving_key.in_(prompt_keys))
        .values(serving_key=None, withdrawn_at=now, urgent=True)
    )
    return withdrawn


@dataclass(frozen=True)
class Timing:
    """When a cluster may be trained: at once if `urgent`, else when its additions have paused for long enough.

    Either way not before `retrain_at`, which depends on its `setbacks` by deletions.
    """

    urgent: bool = False
    settles_at: datetime | None = None
    unsettled_since: datetime | None = None
    setbacks: int = 0
    retrain_at: datetime | None = None


def reshape(
    session: WriteSession, cluster_id: str, *, lo: int, hi: int, samples: int, timing: Timing
) -> EndedLease | None:
    """Give a cluster another region; its plan is void. The lease that was ended, if there was one."""
    lease = _lease(session, cluster_id)
    session.execute(
        sa.update(ClusterRow)
        .where(ClusterRow.id == cluster_id)
        .values(
            lo=lo,
            hi=hi,
            samples=samples,
            unplanned=True,
            desired_key=None,
            **asdict(timing),
            **NO_LEASE,
            **FRESH,
        )
    )
    return lease


def delete(session: WriteSession, cluster_ids: Sequence[str]) -> list[EndedLease]:
    """Delete clusters that have no members; the leases that were ended."""
    statement = sa.delete(ClusterRow).where(ClusterRow.id.in_(cluster_ids))
    ended = session.execute(statement.returning(ClusterRow.lease_token, ClusterRow.leased_until))
    return [EndedLease(token, until) for token, until in ended if token is not None and until is not None]


def plan(session: WriteSession, cluster_id: str, key: str, *, through: int) -> None:
    """Record the key that the members imply; `through` is the place of the last of them in the order of arrival."""
    session.execute(
        sa.update(ClusterRow)
        .where(ClusterRow.id == cluster_id)
        .values(desired_key=key, planned_through=through, unplanned=False)
    )


def unfinished(session: ReadSession) -> bool:
    """Whether any cluster is to be planned or trained, now or later."""
    return session.execute(sa.select(sa.exists().where(sa.or_(ClusterRow.unplanned, differs())))).scalar_one()


@dataclass(frozen=True)
class Census:
    """The number of clusters with the same properties that determine their state, and of their samples."""

    empty: bool
    failing: bool
    serving: bool
    withdrawn: bool
    clusters: int
    samples: int


def census(session: ReadSession, *, now: datetime, attempts: int) -> list[Census]:
    """All clusters, counted by the database: a few rows, however many clusters and samples there are."""
    leased = sa.and_(ClusterRow.leased_until.is_not(None), ClusterRow.leased_until > now)
    of_regions = sa.select(
        (ClusterRow.samples == 0).label("empty"),
        sa.and_(ClusterRow.attempts >= attempts, sa.or_(ClusterRow.unplanned, differs())).label("failing"),
        ClusterRow.serving_key.is_not(None).label("serving"),
        sa.and_(ClusterRow.withdrawn_at.is_not(None), ~leased).label("withdrawn"),
        ClusterRow.samples.label("samples"),
    ).where(~ClusterRow.is_adapter)
    told = of_regions.subquery()  # grouped outside: PostgreSQL treats two equal parameters as different
    by = (told.c.empty, told.c.failing, told.c.serving, told.c.withdrawn)
    counts = (sa.func.count(), sa.func.sum(told.c.samples))
    return [Census(*row) for row in session.execute(sa.select(*by, *counts).group_by(*by))]


def pausing(session: ReadSession, now: datetime) -> int:
    """The number of clusters that pause after repeated setbacks by deletions."""
    return session.execute(sa.select(sa.func.count()).where(ClusterRow.retrain_at > now)).scalar_one()


def waiting_since(session: ReadSession) -> datetime | None:
    """The time of the oldest withdrawal or addition that no served prompt reflects; None if there is none.

    A cluster that pauses for its setbacks waits from the end of that pause on, which may be to come.
    """
    paused = sa.case((ClusterRow.retrain_at > ClusterRow.withdrawn_at, ClusterRow.retrain_at))
    oldest = (
        sa.func.min(sa.func.coalesce(paused, ClusterRow.withdrawn_at), type_=UtcDateTime()),
        sa.func.min(sa.func.coalesce(paused, ClusterRow.unsettled_since), type_=UtcDateTime()),
    )
    statement = sa.select(*oldest).where(sa.or_(ClusterRow.unplanned, differs()))
    return min((when for when in session.execute(statement).one() if when is not None), default=None)


def differs() -> sa.ColumnElement[bool]:
    """The condition that a cluster serves another prompt than it should."""
    return sa.or_(ClusterRow.desired_key.is_distinct_from(ClusterRow.serving_key), ClusterRow.rebuild)


def rebuild(session: WriteSession, prompt_keys: Sequence[str]) -> None:
    """Schedule these served prompts to be built again; they are served until then."""
    session.execute(sa.update(ClusterRow).where(ClusterRow.serving_key.in_(prompt_keys)).values(rebuild=True))


def forget_plans(session: WriteSession, *, of_adapter: bool = False) -> None:
    """Discard every plan, since settings have changed; or that `of_adapter` alone. No training under way is
    published."""
    statement = sa.update(ClusterRow).values(desired_key=None, unplanned=True)
    session.execute(statement.where(ClusterRow.is_adapter) if of_adapter else statement)


def _to_plan(now: datetime) -> sa.ColumnElement[bool]:
    """The condition that a cluster has changed since it was planned, and no training under way may still finish."""
    idle = sa.or_(ClusterRow.leased_until.is_(None), ClusterRow.leased_until <= now)
    return sa.and_(ClusterRow.unplanned, sa.or_(ClusterRow.desired_key.is_(None), idle))


def to_plan(session: ReadSession, now: datetime) -> list[str]:
    """Ids of the clusters whose plan should be made now."""
    return list(session.execute(sa.select(ClusterRow.id).where(_to_plan(now))).scalars())


def adopt(session: WriteSession, cluster_id: str, key: str) -> None:
    """Serve the desired prompt, which is already built."""
    session.execute(sa.update(ClusterRow).where(ClusterRow.id == cluster_id).values(serving_key=key, **UP_TO_DATE))


def discard(session: WriteSession, prompt_key: str) -> None:
    """Stop serving this prompt, whose artifact is damaged. The desired key stays, so the prompt is built again."""
    session.execute(sa.update(ClusterRow).where(ClusterRow.serving_key == prompt_key).values(serving_key=None))

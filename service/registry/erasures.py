"""Erasures: which samples each erases, which clusters it affects, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry import paging, states
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Erasure, ErasureCluster, Page, Tombstone
from service.registry.statements import chunked
from service.registry.tables import ErasureClusterRow, ErasureRow, ErasureSampleRow, SampleRow


def create(
    session: WriteSession,
    *,
    owner: str | None,
    sample_ids: Sequence[str],
    affected: Mapping[str, str | None],
    now: datetime,
    due: timedelta,
    known_as: Tombstone | None = None,
) -> str:
    """Record an accepted erasure; its id.

    affected  the withdrawn prompt (or None) by cluster.
    known_as  the tombstone of an erasure that was accepted before this registry was restored: the client knows its id.
    """
    erasure_id, accepted_at = (known_as.erasure, known_as.accepted_at) if known_as else (str(uuid7()), now)
    session.add(
        ErasureRow(
            id=erasure_id,
            owner_ref=owner,
            state=states.WITHDRAWN,
            accepted_at=accepted_at,
            withdrawn_at=now,
            due_at=accepted_at + due,
            ledgered=False,
            ledger_attempts=0,
        )
    )
    session.flush()
    session.execute(
        sa.insert(ErasureSampleRow),
        [{"erasure_id": erasure_id, "sample_id": sample_id} for sample_id in sample_ids],
    )
    session.add_all(
        ErasureClusterRow(erasure_id=erasure_id, cluster_id=cluster, prompt_before=prompt, state=states.WITHDRAWN)
        for cluster, prompt in affected.items()
    )
    session.flush()
    return erasure_id


def get(session: ReadSession, erasure_id: str) -> Erasure | None:
    """The erasure, or None."""
    found = _load(session, sa.select(ErasureRow).where(ErasureRow.id == erasure_id))
    return found[0] if found else None


def running_for(session: ReadSession, sample_id: str) -> Erasure | None:
    """The unfinished erasure of this sample, if there is one."""
    statement = (
        sa.select(ErasureRow)
        .join(ErasureSampleRow, ErasureSampleRow.erasure_id == ErasureRow.id)
        .where(ErasureSampleRow.sample_id == sample_id, ErasureRow.state.in_(states.OPEN))
    )
    found = _load(session, statement)
    return found[0] if found else None


def running_for_owner(session: ReadSession, ref: str) -> Erasure | None:
    """The latest unfinished erasure of this owner, if there is one."""
    statement = (
        sa.select(ErasureRow)
        .where(ErasureRow.owner_ref == ref, ErasureRow.state.in_(states.OPEN))
        .order_by(ErasureRow.id.desc())
        .limit(1)
    )
    found = _load(session, statement)
    return found[0] if found else None


def erased_samples(session: ReadSession) -> set[str]:
    """Ids of every sample that was ever erased."""
    return set(session.execute(sa.select(ErasureSampleRow.sample_id)).scalars())


def risen(session: ReadSession) -> list[str]:
    """Ids of erased samples that have a row again; no code gives a new sample an old id."""
    joined = sa.select(SampleRow.id).join(ErasureSampleRow, ErasureSampleRow.sample_id == SampleRow.id)
    return list(session.execute(joined.distinct()).scalars())


def page(
    session: ReadSession,
    *,
    limit: int,
    cursor: str | None = None,
    state: str | None = None,
    owner: str | None = None,
) -> Page[Erasure]:
    """A page of erasures, newest first; filtered by state, and by the owner whose samples were all erased."""
    statement = sa.select(ErasureRow).order_by(ErasureRow.id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(ErasureRow.state == state)
    if owner is not None:
        statement = statement.where(ErasureRow.owner_ref == owner)
    if cursor is not None:
        statement = statement.where(ErasureRow.id < paging.decode_id(cursor))
    records = _load(session, statement)
    return paging.page(records, limit, item=lambda record: record, place=lambda record: record.id)


def oldest_unfinished(session: ReadSession) -> datetime | None:
    """The time when the oldest unfinished erasure was accepted; None if there is none."""
    return session.execute(
        sa.select(sa.func.min(ErasureRow.accepted_at)).where(ErasureRow.state.in_(states.OPEN))
    ).scalar_one()


def counts(session: ReadSession) -> dict[str, int]:
    """How many erasures are in each state."""
    statement = sa.select(ErasureRow.state, sa.func.count()).group_by(ErasureRow.state)
    return {row[0]: row[1] for row in session.execute(statement)}


def is_any_unplanned(session: ReadSession) -> bool:
    """Whether an open erasure waits for a plan."""
    unplanned = sa.exists().where(ErasureRow.state.in_(states.OPEN), ErasureRow.planned_epoch.is_(None))
    return session.execute(sa.select(unplanned)).scalar_one()


def count_unrestored(session: ReadSession) -> int:
    """How many erasures affect a cluster that does not serve again. By a partial index: few rows."""
    return session.execute(sa.select(sa.func.count()).where(ErasureRow.restored_at.is_(None))).scalar_one()


@dataclass(frozen=True)
class Backlog:
    """Unfinished erasures: the number in each state, the time of the oldest, the number past their due date."""

    states: dict[str, int]
    oldest: datetime | None
    overdue: int


def backlog(session: ReadSession, now: datetime) -> Backlog:
    """The unfinished erasures, counted by the database by the index on states: completed ones are not read."""
    late = sa.func.sum(sa.case((ErasureRow.due_at < now, 1), else_=0))
    columns = (ErasureRow.state, sa.func.count(), sa.func.min(ErasureRow.accepted_at), late)
    rows = session.execute(
        sa.select(*columns).where(ErasureRow.state.in_(states.OPEN)).group_by(ErasureRow.state)
    ).all()
    return Backlog(
        states={state: count for state, count, _, _ in rows},
        oldest=min((oldest for _, _, oldest, _ in rows), default=None),
        overdue=sum(overdue for _, _, _, overdue in rows),
    )


def _count_samples(session: ReadSession, erasure_ids: Sequence[str]) -> dict[str, int]:
    counted = (
        sa.select(ErasureSampleRow.erasure_id, sa.func.count())
        .where(ErasureSampleRow.erasure_id.in_(erasure_ids))
        .group_by(ErasureSampleRow.erasure_id)
    )
    return {row[0]: row[1] for row in session.execute(counted)}


def _load(session: ReadSession, statement: sa.Select[ErasureRow]) -> list[Erasure]:
    rows = session.execute(statement).scalars().all()
    ids = [row.id for row in rows]
    samples: dict[str, int] = {}
    clusters: dict[str, list[ErasureCluster]] = {erasure_id: [] for erasure_id in ids}
    for chunk in chunked(ids):
        samples |= _count_samples(session, chunk)
        affected = sa.select(ErasureClusterRow).where(ErasureClusterRow.erasure_id.in_(chunk))
        for row in session.execute(affected.order_by(ErasureClusterRow.cluster_id)).scalars():
            record = ErasureCluster(row.cluster_id, row.prompt_before, row.prompt_after, row.state)
            clusters[row.erasure_id].append(record)
    return [
        Erasure(
            id=row.id,
            owner=row.owner_ref,
            samples=samples.get(row.id, 0),
            state=row.state,
            planned_epoch=row.planned_epoch,
            accepted_at=row.accepted_at,
            withdrawn_at=row.withdrawn_at,
            completed_at=row.completed_at,
            restored_at=row.restored_at,
            due_at=row.due_at,
            ledgered=row.ledgered,
            ledger_attempts=row.ledger_attempts,
            clusters=tuple(clusters[row.id]),
        )
        for row in rows
    ]

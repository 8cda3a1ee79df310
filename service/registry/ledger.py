"""The registry's side of the erasure ledger: which erasures have a tombstone there, and the content of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Tombstone
from service.registry.statements import chunked
from service.registry.tables import ErasureRow, ErasureSampleRow, PromptMemberRow, SampleRow


@dataclass(frozen=True)
class LedgerState:
    """What the registry says of an erasure and its tombstone."""

    completed: bool
    ledgered: bool


def missing(session: ReadSession, *, limit: int) -> list[Tombstone]:
    """Tombstones that are still to be written: fewest failed attempts first, then oldest first."""
    statement = sa.select(ErasureRow.id).where(~ErasureRow.ledgered)
    ids = session.execute(statement.order_by(ErasureRow.ledger_attempts, ErasureRow.id).limit(limit)).scalars()
    return tombstones(session, list(ids))


def tombstones(session: ReadSession, erasure_ids: Sequence[str]) -> list[Tombstone]:
    """The tombstones of those of the erasures that are on record, in the order of the ids; sample ids sorted."""
    times = {}
    gone: dict[str, list[str]] = {erasure_id: [] for erasure_id in erasure_ids}
    for chunk in chunked(erasure_ids):
        accepted = sa.select(ErasureRow.id, ErasureRow.accepted_at).where(ErasureRow.id.in_(chunk))
        times.update({row[0]: row[1] for row in session.execute(accepted)})
        columns = sa.select(ErasureSampleRow.erasure_id, ErasureSampleRow.sample_id)
        for erasure_id, sample_id in session.execute(columns.where(ErasureSampleRow.erasure_id.in_(chunk))):
            gone[erasure_id].append(sample_id)
    return [Tombstone(i, times[i], tuple(sorted(gone[i]))) for i in erasure_ids if i in times]


def noted(session: WriteSession, erasure_ids: Sequence[str]) -> None:
    """Record that these erasures' tombstones are written."""
    for chunk in chunked(erasure_ids):
        session.execute(sa.update(ErasureRow).where(ErasureRow.id.in_(chunk)).values(ledgered=True, ledger_attempts=0))


def not_noted(session: WriteSession, erasure_ids: Sequence[str]) -> None:
    """Count a failed attempt to write these erasures' tombstones."""
    for chunk in chunked(erasure_ids):
        statement = sa.update(ErasureRow).where(ErasureRow.id.in_(chunk))
        session.execute(statement.values(ledger_attempts=ErasureRow.ledger_attempts + 1))


def forget(session: WriteSession, erasure_ids: Sequence[str]) -> None:
    """Record that these erasures' tombstones are missing from the ledger: they are to be written again."""
    for chunk in chunked(erasure_ids):
        session.execute(sa.update(ErasureRow).where(ErasureRow.id.in_(chunk)).values(ledgered=False, ledger_attempts=0))


def ledger_states(session: ReadSession) -> dict[str, LedgerState]:
    """The ledger state of every recorded erasure, by its id."""
    columns = sa.select(ErasureRow.id, ErasureRow.state == "completed", ErasureRow.ledgered)
    return {row[0]: LedgerState(row[1], row[2]) for row in session.execute(columns)}


def recorded(session: ReadSession, sample_ids: Iterable[str]) -> set[str]:
    """Those of the samples that have a row."""
    found: set[str] = set()
    for chunk in chunked(list(sample_ids)):
        found.update(session.execute(sa.select(SampleRow.id).where(SampleRow.id.in_(chunk))).scalars())
    return found


def seen(session: ReadSession, sample_ids: Iterable[str]) -> set[str]:
    """Those of the samples that a recorded prompt has seen."""
    found: set[str] = set()
    for chunk in chunked(list(sample_ids)):
        members = sa.select(PromptMemberRow.sample_id).where(PromptMemberRow.sample_id.in_(chunk))
        found.update(session.execute(members.distinct()).scalars())
    return found

"""What each API key has asked for lately. A budget is an hour's worth that comes back steadily (a leaky bucket)."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.statements import insert_or_ignore
from service.registry.tables import BudgetRow

HOUR = timedelta(hours=1)


def wait(
    session: ReadSession, key_id: str, what: str, amount: int, *, per_hour: int, now: datetime
) -> timedelta | None:
    """How long until so much more may be asked for; None: it may be now."""
    row = session.execute(_row_of(key_id, what)).one_or_none()
    return _wait(_left_of(row, per_hour, now) + amount, per_hour)


def spend(
    session: WriteSession, key_id: str, what: str, amount: int, *, per_hour: int, now: datetime
) -> timedelta | None:
    """Note that so much has been asked for; how long until it could be, and nothing noted, if it is too much.

    Locks the key's row until the commit: requests of one key that come together cannot spend the same twice.
    """
    session.execute(insert_or_ignore(session, BudgetRow).values(key_id=key_id, what=what, spent=0.0, at=now))
    row = session.execute(_row_of(key_id, what).with_for_update()).one_or_none()
    spent = _left_of(row, per_hour, now) + amount
    if (until := _wait(spent, per_hour)) is not None:
        return until
    same = (BudgetRow.key_id == key_id, BudgetRow.what == what)
    session.execute(sa.update(BudgetRow).where(*same).values(spent=spent, at=now))
    return None


def _row_of(key_id: str, what: str) -> sa.Select[float, datetime]:
    return sa.select(BudgetRow.spent, BudgetRow.at).where(BudgetRow.key_id == key_id, BudgetRow.what == what)


def _left_of(row: sa.Row[float, datetime] | None, per_hour: int, now: datetime) -> float:
    """What still counts of what was spent. A clock that was set back gives nothing back."""
    if row is None:
        return 0.0
    spent, at = row
    return max(0.0, spent - per_hour * max(now - at, timedelta(0)) / HOUR)


def _wait(spent: float, per_hour: int) -> timedelta | None:
    return HOUR * ((spent - per_hour) / per_hour) if spent > per_hour else None

"""Tallies: how many trainings and completed erasures there have been, and how long they took.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

# As this release counts; a later one may count more finely.
_BOUNDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0)


def upgrade() -> None:
    """Erasures that are completed already are counted; trainings are from now on, for their prompts may be gone."""
    tallies = op.create_table(
        "tallies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("le", sa.String(length=24), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "le", name=op.f("pk_tallies")),
    )
    counts: dict[str, int] = defaultdict(int)
    totals: dict[str, float] = defaultdict(float)
    for seconds in _completed():
        place = bisect_left(_BOUNDS, seconds)
        le = repr(_BOUNDS[place]) if place < len(_BOUNDS) else "+Inf"
        counts[le] += 1
        totals[le] += seconds
    rows = [
        {"name": "time_to_complete_seconds", "le": le, "count": count, "total": totals[le]}
        for le, count in counts.items()
    ]
    if rows:
        op.bulk_insert(tallies, rows)


def _completed() -> Iterator[float]:
    """Seconds that each completed erasure took."""
    erasures = sa.table("erasures", sa.column("accepted_at", sa.DateTime()), sa.column("completed_at", sa.DateTime()))
    statement = sa.select(erasures.c.accepted_at, erasures.c.completed_at).where(erasures.c.completed_at.is_not(None))
    for row in op.get_bind().execute(statement):
        accepted: datetime = row[0]
        completed: datetime = row[1]
        yield max((completed - accepted).total_seconds(), 0.0)


def downgrade() -> None:
    """What has been counted is lost."""
    op.drop_table("tallies")

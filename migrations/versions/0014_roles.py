"""What each sample is for: to be learned from, or to measure with.

Revision ID: 0014
Revises: 0011
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.operations.base import BatchOperations

revision: str = "0014"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None

_LEARNED: dict[str, sa.types.TypeEngine[Any]] = {  # that a sample has only if it is learned from
    "position": sa.BigInteger(),
    "cluster_id": sa.Uuid(as_uuid=False),
    "addition": sa.BigInteger(),
}
_LEARNED_OR_HELD_OUT = (
    "role = 'evaluation' AND position IS NULL AND cluster_id IS NULL AND addition IS NULL OR "
    "role <> 'evaluation' AND position IS NOT NULL AND cluster_id IS NOT NULL AND addition IS NOT NULL"
)
_COUNTS = ("evaluation_additions", "evaluation_removals")
_samples = sa.table("samples", sa.column("role"))

_sequences = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))


@contextmanager
def _samples_anew() -> Iterator[BatchOperations]:
    """Changes of `samples`. SQLite's copy of the table goes on numbering where the old one was, not at its last row."""
    connection = op.get_bind()
    is_sqlite = connection.dialect.name == "sqlite"
    numbered = sa.select(_sequences.c.seq).where(_sequences.c.name == "samples")
    last = connection.execute(numbered).scalar_one_or_none() if is_sqlite else None
    with op.batch_alter_table("samples", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        yield batch_op
    if last is not None:
        connection.execute(sa.delete(_sequences).where(_sequences.c.name == "samples"))
        connection.execute(sa.insert(_sequences).values(name="samples", seq=last))


def upgrade() -> None:
    """Samples of earlier releases are learned from. On SQLite the table is written anew, and keeps its numbering."""
    with _samples_anew() as batch_op:
        batch_op.add_column(sa.Column("role", sa.String(length=16), nullable=False, server_default="training"))
    with _samples_anew() as batch_op:
        batch_op.alter_column("role", server_default=None)
        for name, kind in _LEARNED.items():
            batch_op.alter_column(name, existing_type=kind, nullable=True)
        batch_op.create_check_constraint(op.f("ck_samples_learned_or_held_out"), _LEARNED_OR_HELD_OUT)
    with op.batch_alter_table("state") as batch_op:
        for name in _COUNTS:
            batch_op.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("state") as batch_op:
        for name in _COUNTS:
            batch_op.alter_column(name, server_default=None)
    op.add_column("replicas", sa.Column("evaluation_removals", sa.BigInteger(), nullable=True))
    op.add_column("destructions", sa.Column("evaluation_removal", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """An earlier release would learn from evaluation samples: there must be none. Raises RuntimeError."""
    others = sa.select(sa.exists().where(_samples.c.role != "training"))
    if op.get_bind().execute(others).scalar_one():
        raise RuntimeError("There are samples with the role evaluation, which the old release would learn from.")
    with op.batch_alter_table("destructions") as batch_op:
        batch_op.drop_column("evaluation_removal")
    with op.batch_alter_table("replicas") as batch_op:
        batch_op.drop_column("evaluation_removals")
    with op.batch_alter_table("state") as batch_op:
        for name in _COUNTS:
            batch_op.drop_column(name)
    with _samples_anew() as batch_op:
        batch_op.drop_constraint(op.f("ck_samples_learned_or_held_out"), type_="check")
        for name, kind in _LEARNED.items():
            batch_op.alter_column(name, existing_type=kind, nullable=False)
        batch_op.drop_column("role")

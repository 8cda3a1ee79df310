"""The closed-form tier: what has been added and removed since when, and which replicas have taken note.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Samples of a registry of 0002 count as added at once; no replica has taken note of anything yet."""
    op.create_table(
        "replicas",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("additions", sa.BigInteger(), nullable=False),
        sa.Column("removals", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_replicas")),
    )
    added = (("state", "additions"), ("state", "removals"), ("samples", "addition"))
    for table, column in added:
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))
    for table, column in added:
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column(column, server_default=None)
    with op.batch_alter_table("samples") as batch_op:
        batch_op.create_index(op.f("ix_samples_addition"), ["addition"])
    with op.batch_alter_table("destructions") as batch_op:
        batch_op.add_column(sa.Column("removal", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Objects that wait for replicas are destroyed by the process that looks next."""
    with op.batch_alter_table("destructions") as batch_op:
        batch_op.drop_column("removal")
    with op.batch_alter_table("samples") as batch_op:
        batch_op.drop_index(op.f("ix_samples_addition"))
        batch_op.drop_column("addition")
    with op.batch_alter_table("state") as batch_op:
        batch_op.drop_column("removals")
        batch_op.drop_column("additions")
    op.drop_table("replicas")

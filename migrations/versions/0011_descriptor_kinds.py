"""Which kind of descriptor each sample's file has, and which is wanted.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Samples of earlier releases have none that is known: a worker looks into their files."""
    op.add_column("state", sa.Column("descriptor_kind", sa.String(length=64), nullable=True))
    op.add_column("samples", sa.Column("descriptor_kind", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_samples_descriptor_kind"), "samples", ["descriptor_kind"])


def downgrade() -> None:
    """An earlier release does not understand files that a later one has written."""
    op.drop_index(op.f("ix_samples_descriptor_kind"), "samples")
    with op.batch_alter_table("samples") as batch_op:
        batch_op.drop_column("descriptor_kind")
    with op.batch_alter_table("state") as batch_op:
        batch_op.drop_column("descriptor_kind")

"""Owners who may have no samples left are marked, so that a plan need not look through all owners.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Mark all owners: the next plan looks through all of them, once."""
    with op.batch_alter_table("owners") as batch_op:
        batch_op.add_column(sa.Column("leaving", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("owners") as batch_op:
        batch_op.alter_column("leaving", server_default=None)
        batch_op.create_index(op.f("ix_owners_leaving"), ["leaving"])


def downgrade() -> None:
    """Every plan looks through all owners again."""
    with op.batch_alter_table("owners") as batch_op:
        batch_op.drop_index(op.f("ix_owners_leaving"))
        batch_op.drop_column("leaving")

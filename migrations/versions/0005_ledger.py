"""The erasure ledger: which erasures have their tombstone there.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Erasures of an earlier release have no tombstone yet: this one writes theirs as well."""
    with op.batch_alter_table("erasures") as batch_op:
        batch_op.add_column(sa.Column("ledgered", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("ledger_attempts", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("erasures") as batch_op:
        batch_op.alter_column("ledgered", server_default=None)
        batch_op.alter_column("ledger_attempts", server_default=None)
    op.create_index(
        "ix_erasures_unledgered",
        "erasures",
        ["ledger_attempts", "id"],
        sqlite_where=sa.text("ledgered = 0"),
        postgresql_where=sa.text("NOT ledgered"),
    )


def downgrade() -> None:
    """The ledger itself stays where it is; the old release does not know it."""
    op.drop_index("ix_erasures_unledgered", table_name="erasures")
    with op.batch_alter_table("erasures") as batch_op:
        batch_op.drop_column("ledger_attempts")
        batch_op.drop_column("ledgered")

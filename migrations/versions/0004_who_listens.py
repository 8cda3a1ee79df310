"""Workers: which queues they serve, and when they last heard a bell and last claimed a cluster.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

TIMES = ("heard_at", "claimed_at")


def upgrade() -> None:
    """Workers of a registry of 0003 serve everything; what they have heard is not known."""
    with op.batch_alter_table("workers") as batch_op:
        batch_op.add_column(
            sa.Column("queues", sa.String(length=64), nullable=False, server_default="deletions,additions")
        )
        for name in TIMES:
            batch_op.add_column(sa.Column(name, sa.DateTime(timezone=True), nullable=True))
        batch_op.alter_column("device", existing_type=sa.String(32), type_=sa.String(200), existing_nullable=False)
    with op.batch_alter_table("workers") as batch_op:
        batch_op.alter_column("queues", server_default=None)


def downgrade() -> None:
    """A device is cut to the length that 0003 has room for."""
    op.execute(sa.text("UPDATE workers SET device = substr(device, 1, 32)"))
    with op.batch_alter_table("workers") as batch_op:
        batch_op.alter_column("device", existing_type=sa.String(200), type_=sa.String(32), existing_nullable=False)
        for name in reversed(TIMES):
            batch_op.drop_column(name)
        batch_op.drop_column("queues")

"""API keys that expire, that are replaced by others, and of which it is known when they were last used.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Keys of an earlier release never expire, and nothing is known of their use."""
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("replaced_by", sa.Uuid(as_uuid=False), nullable=True))


def downgrade() -> None:
    """A key that expires is refused from now on: the old release would let it in for ever."""
    op.execute("UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP WHERE expires_at IS NOT NULL AND revoked_at IS NULL")
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.drop_column("replaced_by")
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("expires_at")

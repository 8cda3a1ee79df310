"""An erasure is completed once nothing knows its samples; when its clusters served again is another time.

And what keeps deletions from keeping the model down: how often in a row a cluster has lost its prompt too soon, when it
may be trained again, and what each key has left to ask for.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """What was completed was restored as well. What was being retrained is completed by the first look at it."""
    with op.batch_alter_table("erasures") as batch_op:
        batch_op.add_column(sa.Column("restored_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE erasures SET restored_at = completed_at")
    op.execute("UPDATE erasures SET state = 'withdrawn' WHERE state = 'retraining'")
    op.execute("UPDATE erasure_clusters SET state = 'restored' WHERE state = 'completed'")
    unrestored = sa.text("restored_at IS NULL")
    op.create_index("ix_erasures_unrestored", "erasures", ["id"], sqlite_where=unrestored, postgresql_where=unrestored)
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.add_column(sa.Column("setbacks", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("retrain_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.alter_column("setbacks", server_default=None)
    op.create_table(
        "budgets",
        sa.Column("key_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("spent", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "what", name=op.f("pk_budgets")),
    )


def downgrade() -> None:
    """Erasures that were completed before their clusters served again stay completed."""
    op.drop_table("budgets")
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.drop_column("retrain_at")
        batch_op.drop_column("setbacks")
    op.drop_index("ix_erasures_unrestored", "erasures")
    op.execute("UPDATE erasure_clusters SET state = 'completed' WHERE state = 'restored'")
    op.execute("UPDATE erasures SET state = 'retraining' WHERE state = 'withdrawn' AND planned_epoch IS NOT NULL")
    with op.batch_alter_table("erasures") as batch_op:
        batch_op.drop_column("restored_at")

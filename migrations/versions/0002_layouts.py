"""What positions mean is on record: the layout in force, its anchors; when objects were owed; what is built again.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Positions of a registry of 0001 are those of its `tree`, whose layout has the line's digest."""
    op.create_table(
        "layout_anchors",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sample_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_layout_anchors")),
        sa.UniqueConstraint("sample_id", name=op.f("uq_layout_anchors_sample_id")),
    )
    with op.batch_alter_table("state") as batch_op:
        batch_op.alter_column("line_digest", new_column_name="layout_digest")
        batch_op.add_column(sa.Column("layout", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("layout_failure", sa.Text(), nullable=True))
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.add_column(sa.Column("rebuild", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("destructions") as batch_op:
        batch_op.add_column(sa.Column("owed_epoch", sa.BigInteger(), nullable=False, server_default="0"))
    for table, column in (("clusters", "rebuild"), ("destructions", "owed_epoch")):
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column(column, server_default=None)


def downgrade() -> None:
    """Only while `tree` is in force: no other positions have a meaning there."""
    layout = op.get_bind().execute(sa.text("SELECT layout FROM state")).scalar_one_or_none()
    if layout is not None and (json.loads(layout) if isinstance(layout, str) else layout)["spec"]["kind"] != "tree":
        raise RuntimeError(
            "Start once with OUBLI_PARTITION__KIND=tree, and let a worker move the samples; then go back."
        )
    with op.batch_alter_table("destructions") as batch_op:
        batch_op.drop_column("owed_epoch")
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.drop_column("rebuild")
    with op.batch_alter_table("state") as batch_op:
        batch_op.drop_column("layout_failure")
        batch_op.drop_column("layout")
        batch_op.alter_column("layout_digest", new_column_name="line_digest")
    op.drop_table("layout_anchors")

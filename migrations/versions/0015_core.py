"""The core: an adapter among the clusters, and descriptors that the adapted backbone has computed.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None

_samples = sa.table("samples", sa.column("role"))


def upgrade() -> None:
    """There are no core samples yet, so no adapter, and nothing that it has described."""
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.add_column(sa.Column("is_adapter", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("clusters") as batch_op:
        batch_op.alter_column("is_adapter", server_default=None)
    with op.batch_alter_table("state") as batch_op:
        batch_op.add_column(sa.Column("adapter_digest", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("adapted_additions", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("state") as batch_op:
        batch_op.alter_column("adapted_additions", server_default=None)
    op.add_column("samples", sa.Column("adapted_by", sa.Uuid(as_uuid=False), nullable=True))
    op.add_column("samples", sa.Column("adapted_addition", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_samples_adapted_by"), "samples", ["adapted_by"])
    op.create_index(op.f("ix_samples_adapted_addition"), "samples", ["adapted_addition"])
    is_core = sa.text("role = 'core'")
    op.create_index("ix_samples_core", "samples", ["seq"], sqlite_where=is_core, postgresql_where=is_core)
    op.add_column("replicas", sa.Column("adapted_additions", sa.BigInteger(), nullable=True))
    op.add_column("replicas", sa.Column("adapted_removals", sa.BigInteger(), nullable=True))
    op.add_column("replicas", sa.Column("adapted_digest", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Core samples would be learned from as any others, but an earlier release does not know what it must destroy."""
    core = sa.select(sa.exists().where(_samples.c.role == "core"))
    if op.get_bind().execute(core).scalar_one():
        raise RuntimeError("There are samples with the role core, whose adapter the old release would not withdraw.")
    op.drop_index("ix_samples_core", "samples")
    op.drop_index(op.f("ix_samples_adapted_addition"), "samples")
    op.drop_index(op.f("ix_samples_adapted_by"), "samples")
    for table, names in {
        "replicas": ("adapted_digest", "adapted_removals", "adapted_additions"),
        "samples": ("adapted_addition", "adapted_by"),
        "state": ("adapted_additions", "adapter_digest"),
        "clusters": ("is_adapter",),
    }.items():
        for name in names:
            op.drop_column(table, name)

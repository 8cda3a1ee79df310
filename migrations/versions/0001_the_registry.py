"""the registry

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner_ref", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("planned_epoch", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasures")),
    )
    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_erasures_state"), ["state"], unique=False)

    op.create_table(
        "idempotency",
        sa.Column("key_digest", sa.String(length=64), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=True),
        sa.Column("resource_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_digest", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_idempotency_resource_id"), ["resource_id"], unique=False)

    op.create_table(
        "owners",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("ref", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owners")),
        sa.UniqueConstraint("ref", name=op.f("uq_owners_ref")),
    )
    op.create_table(
        "prompts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("object_name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("sample_epochs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("fingerprint", sa.JSON(), nullable=False),
        sa.Column("published_epoch", sa.BigInteger(), nullable=False),
        sa.Column("trained_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_prompts")),
    )
    op.create_table(
        "state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("backbone_digest", sa.String(length=64), nullable=True),
        sa.Column("backbone_name", sa.String(length=200), nullable=True),
        sa.Column("line_digest", sa.String(length=64), nullable=True),
        sa.Column("partition_digest", sa.String(length=64), nullable=True),
        sa.Column("training_digest", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "clusters",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("lo", sa.BigInteger(), nullable=False),
        sa.Column("hi", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("unplanned", sa.Boolean(), nullable=False),
        sa.Column("desired_key", sa.String(length=64), nullable=True),
        sa.Column("planned_through", sa.BigInteger(), nullable=False),
        sa.Column("serving_key", sa.String(length=64), nullable=True),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("settles_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("unsettled_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("leased_by", sa.String(length=200), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["serving_key"], ["prompts.key"], name=op.f("fk_clusters_serving_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clusters")),
    )
    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_clusters_lo"), ["lo"], unique=False)
        batch_op.create_index(batch_op.f("ix_clusters_serving_key"), ["serving_key"], unique=False)

    op.create_table(
        "destructions",
        sa.Column("object_name", sa.String(length=200), nullable=False),
        sa.Column("erasure_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.id"], name=op.f("fk_destructions_erasure_id")),
        sa.PrimaryKeyConstraint("object_name", name=op.f("pk_destructions")),
    )
    with op.batch_alter_table("destructions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_destructions_erasure_id"), ["erasure_id"], unique=False)

    op.create_table(
        "erasure_clusters",
        sa.Column("erasure_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("cluster_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("prompt_before", sa.String(length=64), nullable=True),
        sa.Column("prompt_after", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.id"], name=op.f("fk_erasure_clusters_erasure_id")),
        sa.PrimaryKeyConstraint("erasure_id", "cluster_id", name=op.f("pk_erasure_clusters")),
    )
    with op.batch_alter_table("erasure_clusters", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_erasure_clusters_cluster_id"), ["cluster_id"], unique=False)

    op.create_table(
        "erasure_samples",
        sa.Column("erasure_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("sample_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.id"], name=op.f("fk_erasure_samples_erasure_id")),
        sa.PrimaryKeyConstraint("erasure_id", "sample_id", name=op.f("pk_erasure_samples")),
    )
    with op.batch_alter_table("erasure_samples", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_erasure_samples_sample_id"), ["sample_id"], unique=False)

    op.create_table(
        "prompt_members",
        sa.Column("prompt_key", sa.String(length=64), nullable=False),
        sa.Column("sample_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_key"], ["prompts.key"], name=op.f("fk_prompt_members_prompt_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("prompt_key", "sample_id", name=op.f("pk_prompt_members")),
    )
    with op.batch_alter_table("prompt_members", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_prompt_members_sample_id"), ["sample_id"], unique=False)

    op.create_table(
        "samples",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("label", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("cluster_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"], name=op.f("fk_samples_cluster_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_samples_owner_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_samples")),
        sa.UniqueConstraint("id", name=op.f("uq_samples_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("samples", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_samples_cluster_id_seq"), ["cluster_id", "seq"], unique=False)
        batch_op.create_index(batch_op.f("ix_samples_digest"), ["digest"], unique=False)
        batch_op.create_index(batch_op.f("ix_samples_label"), ["label"], unique=False)
        batch_op.create_index(batch_op.f("ix_samples_owner_id"), ["owner_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_samples_position"), ["position"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("samples", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_samples_position"))
        batch_op.drop_index(batch_op.f("ix_samples_owner_id"))
        batch_op.drop_index(batch_op.f("ix_samples_label"))
        batch_op.drop_index(batch_op.f("ix_samples_digest"))
        batch_op.drop_index(batch_op.f("ix_samples_cluster_id_seq"))

    op.drop_table("samples")
    with op.batch_alter_table("prompt_members", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_prompt_members_sample_id"))

    op.drop_table("prompt_members")
    with op.batch_alter_table("erasure_samples", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_erasure_samples_sample_id"))

    op.drop_table("erasure_samples")
    with op.batch_alter_table("erasure_clusters", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_erasure_clusters_cluster_id"))

    op.drop_table("erasure_clusters")
    with op.batch_alter_table("destructions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_destructions_erasure_id"))

    op.drop_table("destructions")
    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_clusters_serving_key"))
        batch_op.drop_index(batch_op.f("ix_clusters_lo"))

    op.drop_table("clusters")
    op.drop_table("workers")
    op.drop_table("state")
    op.drop_table("prompts")
    op.drop_table("owners")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_resource_id"))
        batch_op.drop_index(batch_op.f("ix_idempotency_created_at"))

    op.drop_table("idempotency")
    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_erasures_state"))

    op.drop_table("erasures")
    op.drop_table("api_keys")

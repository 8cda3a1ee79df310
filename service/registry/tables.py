"""The registry's tables. Migrations build them; `make check` compares the two on both dialects.

Personal data is in four columns only: `owners.ref`, `samples.label`, `prompts.labels` and, for an owner's erasure,
`erasures.owner_ref`. Images and embeddings are in the object store, under random names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    Uuid,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

_BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows in INTEGER columns only
_Id = Uuid(as_uuid=False)
_Digest = String(64)
_Kind = String(64)  # name of a `models.descriptor_kind.DescriptorKind`
_Text = String(384)  # 128 characters; NFC makes up to three code points of one (`core.text`)


class UtcDateTime(TypeDecorator[datetime]):
    """Timezone-aware UTC times, also on SQLite, which stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its zone."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Declarative base with named constraints, which batch migrations on SQLite need."""


Base.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

LEARNED_OR_HELD_OUT = (
    "role = 'evaluation' AND position IS NULL AND cluster_id IS NULL AND addition IS NULL OR "
    "role <> 'evaluation' AND position IS NOT NULL AND cluster_id IS NOT NULL AND addition IS NOT NULL"
)


class StateRow(Base):
    """The one state row: the settings that this registry was made with, and the serving epoch."""

    __tablename__ = "state"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)  # grows with every publication, withdrawal and re-cut
    backbone_digest: Mapped[str | None] = mapped_column(_Digest)
    backbone_name: Mapped[str | None] = mapped_column(String(200))
    partition_digest: Mapped[str | None] = mapped_column(_Digest)  # of the rule that is wanted
    layout_digest: Mapped[str | None] = mapped_column(_Digest)  # of the layout in force; NULL: positions mean nothing
    layout: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # how to restore it: spec, object, checksum
    layout_failure: Mapped[str | None] = mapped_column(Text)  # why the relayout is blocked
    training_digest: Mapped[str | None] = mapped_column(_Digest)
    adapter_digest: Mapped[str | None] = mapped_column(_Digest)  # of the settings of its training
    descriptor_kind: Mapped[str | None] = mapped_column(_Kind)  # that is wanted
    additions: Mapped[int] = mapped_column(BigInteger)  # samples ever added
    removals: Mapped[int] = mapped_column(BigInteger)  # samples ever removed
    adapted_additions: Mapped[int] = mapped_column(BigInteger)  # samples that an adapter has described, and adapters
    evaluation_additions: Mapped[int] = mapped_column(BigInteger)  # evaluation samples, which the two do not count
    evaluation_removals: Mapped[int] = mapped_column(BigInteger)


class LayoutAnchorRow(Base):
    """A sample that the layout in force was fitted on; the row is deleted when the sample is erased."""

    __tablename__ = "layout_anchors"
    place: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    sample_id: Mapped[str] = mapped_column(_Id, unique=True)


class OwnerRow(Base):
    """A person, by the opaque reference that the client uses for them; deleted after their last sample.

    `leaving`: samples of this owner were erased since owners without samples were last deleted.
    """

    __tablename__ = "owners"
    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    ref: Mapped[str] = mapped_column(_Text, unique=True)
    leaving: Mapped[bool] = mapped_column(index=True)


class SampleRow(Base):
    """One contributed image. `seq` is the order of arrival; nothing depends on its value, only on the order.

    A sample with the role `evaluation` has no position, no cluster and no addition (`registry.roles`).
    """

    __tablename__ = "samples"
    seq: Mapped[int] = mapped_column(_BigKey, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_Id, unique=True)
    owner_id: Mapped[str] = mapped_column(_Id, ForeignKey("owners.id"), index=True)
    label: Mapped[str] = mapped_column(_Text, index=True)
    digest: Mapped[str] = mapped_column(_Digest)
    role: Mapped[str] = mapped_column(String(16))
    position: Mapped[int | None] = mapped_column(BigInteger, index=True)
    cluster_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("clusters.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    addition: Mapped[int | None] = mapped_column(BigInteger, index=True)  # state.additions once it was in
    descriptor_kind: Mapped[str | None] = mapped_column(
        _Kind, index=True
    )  # in its file; NULL: one of an earlier release
    adapted_by: Mapped[str | None] = mapped_column(_Id, index=True)  # publication of the adapter (registry.adapted)
    adapted_addition: Mapped[int | None] = mapped_column(BigInteger, index=True)  # state.adapted_additions by then
    __table_args__ = (
        Index(None, "cluster_id", "seq"),
        Index(None, "digest", "owner_id"),
        Index("ix_samples_core", "seq", sqlite_where=text("role = 'core'"), postgresql_where=text("role = 'core'")),
        CheckConstraint(LEARNED_OR_HELD_OUT, "learned_or_held_out"),
        {"sqlite_autoincrement": True},
    )


class PromptRow(Base):
    """A built prompt that some cluster serves; `object_name` is where its bytes are."""

    __tablename__ = "prompts"
    key: Mapped[str] = mapped_column(_Digest, primary_key=True)
    object_name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(_Digest)
    labels: Mapped[list[str]] = mapped_column(JSON)
    members: Mapped[int] = mapped_column(Integer)
    sample_epochs: Mapped[int] = mapped_column(Integer)
    seconds: Mapped[float]
    fingerprint: Mapped[dict[str, Any]] = mapped_column(JSON)
    published_epoch: Mapped[int] = mapped_column(BigInteger)
    trained_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PromptMemberRow(Base):
    """A sample that a built prompt has seen; when the sample is erased, the prompt must be withdrawn."""

    __tablename__ = "prompt_members"
    prompt_key: Mapped[str] = mapped_column(_Digest, ForeignKey("prompts.key", ondelete="CASCADE"), primary_key=True)
    sample_id: Mapped[str] = mapped_column(_Id, primary_key=True, index=True)


class ClusterRow(Base):
    """One region of the partition's line, the key that its survivors imply, and the key that it serves.

    One row at most is the adapter: it stands behind the end of the line, and its members are core samples, which belong
    to the cluster of their position as well.

    Work to do: desired_key differs from serving_key. `unplanned`: members have come or gone since desired_key was
    computed. If a member was erased, desired_key is NULL; after additions alone, a training under way may finish.
    """

    __tablename__ = "clusters"
    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    lo: Mapped[int] = mapped_column(BigInteger, index=True)
    hi: Mapped[int] = mapped_column(BigInteger)
    is_adapter: Mapped[bool]
    samples: Mapped[int] = mapped_column(Integer)
    unplanned: Mapped[bool]
    desired_key: Mapped[str | None] = mapped_column(_Digest)
    planned_through: Mapped[int] = mapped_column(BigInteger)  # desired_key covers members up to this seq
    serving_key: Mapped[str | None] = mapped_column(_Digest, ForeignKey("prompts.key"), index=True)
    rebuild: Mapped[bool]  # the served prompt was built in another environment, and is to be built again
    urgent: Mapped[bool]  # an erasure took a member or a prompt from it: trained first
    settles_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # debouncing: additions are not trained before
    unsettled_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    setbacks: Mapped[int] = mapped_column(Integer)  # prompts and trainings lost in a row: see registry.backoff
    retrain_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # not before, for so many setbacks
    attempts: Mapped[int] = mapped_column(Integer)
    failure: Mapped[str | None] = mapped_column(Text)
    retry_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_token: Mapped[str | None] = mapped_column(_Id)
    leased_by: Mapped[str | None] = mapped_column(String(200))
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ErasureRow(Base):
    """One accepted erasure.

    `planned_epoch`: the serving epoch once a plan took note of it. `restored_at`: when every cluster that it changes
    served a prompt again that was built without its samples. `ledgered`: its tombstone is written to the erasure
    ledger. `ledger_attempts`: how often writing it has failed.
    """

    __tablename__ = "erasures"
    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    owner_ref: Mapped[str | None] = mapped_column(_Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    planned_epoch: Mapped[int | None] = mapped_column(BigInteger)
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    withdrawn_at: Mapped[datetime] = mapped_column(UtcDateTime)
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    restored_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ledgered: Mapped[bool]
    ledger_attempts: Mapped[int] = mapped_column(Integer)
    __table_args__ = (  # of erasures without a tombstone: few among many
        Index(
            "ix_erasures_unledgered",
            "ledger_attempts",
            "id",
            sqlite_where=text("ledgered = 0"),
            postgresql_where=text("NOT ledgered"),
        ),
        Index(  # few as well
            "ix_erasures_unrestored",
            "id",
            sqlite_where=text("restored_at IS NULL"),
            postgresql_where=text("restored_at IS NULL"),
        ),
    )


class ErasureSampleRow(Base):
    """All that remains of an erased sample: its id (UUIDv7: random, and the time of its arrival)."""

    __tablename__ = "erasure_samples"
    erasure_id: Mapped[str] = mapped_column(_Id, ForeignKey("erasures.id"), primary_key=True)
    sample_id: Mapped[str] = mapped_column(_Id, primary_key=True, index=True)


class ErasureClusterRow(Base):
    """A cluster that an erasure affects. No foreign key: a cluster may be deleted while its erasure is on record."""

    __tablename__ = "erasure_clusters"
    erasure_id: Mapped[str] = mapped_column(_Id, ForeignKey("erasures.id"), primary_key=True)
    cluster_id: Mapped[str] = mapped_column(_Id, primary_key=True, index=True)
    prompt_before: Mapped[str | None] = mapped_column(_Digest)
    prompt_after: Mapped[str | None] = mapped_column(_Digest)
    state: Mapped[str] = mapped_column(String(16))


class DestructionRow(Base):
    """An object that is to be deleted from the store, the serving epoch at which that was scheduled, and its erasure.

    `removal`: of a sample's object, and of its adapted descriptor, state.removals after the sample was removed; the
    object stays until every live replica has applied that removal. `evaluation_removal`: the same of an evaluation
    sample's object, which stays until every live replica has let go of what it has computed from the sample.
    `held_until`: of what an ended training may have stored; until then, or until the worker has said that it let go,
    the erased samples may be in its memory.
    """

    __tablename__ = "destructions"
    object_name: Mapped[str] = mapped_column(String(200), primary_key=True)
    erasure_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("erasures.id"), index=True)
    owed_epoch: Mapped[int] = mapped_column(BigInteger)
    removal: Mapped[int | None] = mapped_column(BigInteger)
    evaluation_removal: Mapped[int | None] = mapped_column(BigInteger)
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer)


class WorkerRow(Base):
    """A worker process and its last heartbeat."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(200))
    queues: Mapped[str] = mapped_column(String(64))  # names, with commas between them
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    beat_at: Mapped[datetime] = mapped_column(UtcDateTime)
    heard_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the last notification
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the last cluster


class ReplicaRow(Base):
    """An API process, the changes that its closed-form tier has applied, and the digest that they have led to.

    `evaluation_removals`: nothing is in its memory that was computed from these evaluation samples; NULL: it computes
    nothing from any. `adapted_*`: the same of its tier of adapted descriptors; NULL without one.
    """

    __tablename__ = "replicas"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    additions: Mapped[int] = mapped_column(BigInteger)
    removals: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str | None] = mapped_column(_Digest)  # None while it starts from the survivors
    evaluation_removals: Mapped[int | None] = mapped_column(BigInteger)
    adapted_additions: Mapped[int | None] = mapped_column(BigInteger)
    adapted_removals: Mapped[int | None] = mapped_column(BigInteger)
    adapted_digest: Mapped[str | None] = mapped_column(_Digest)
    beat_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CounterRow(Base):
    """The number of events, and the sum of their sizes; `le` is the upper bound of a histogram's bucket."""

    __tablename__ = "tallies"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    le: Mapped[str] = mapped_column(String(24), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float]


class ApiKeyRow(Base):
    """An API key, as SHA-256 of its secret (256 random bits, so nothing slower is needed)."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(_Digest, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # to a minute or so: see core.access
    replaced_by: Mapped[str | None] = mapped_column(_Id)  # the key that it was rotated to


class BudgetRow(Base):
    """The spent budget of a key: `spent` at the time `at`, falling since then as an hour's budget comes back."""

    __tablename__ = "budgets"
    key_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    what: Mapped[str] = mapped_column(String(16), primary_key=True)
    spent: Mapped[float]
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class IdempotencyRow(Base):
    """An `Idempotency-Key` as a digest, and the resource that its first request made.

    `request_digest` is cleared when the sample is erased: it is a digest of the image.
    """

    __tablename__ = "idempotency"
    key_digest: Mapped[str] = mapped_column(_Digest, primary_key=True)
    request_digest: Mapped[str | None] = mapped_column(_Digest)
    resource_id: Mapped[str | None] = mapped_column(_Id, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)

"""The records that the registry returns: frozen values, independent of any session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")

Role = Literal["training", "evaluation"]  # of a sample

SCOPES = ("samples", "predict", "erase", "read", "admin")  # that an API key can have


class Marks(NamedTuple):
    """The numbers of samples that were ever added, and ever removed."""

    additions: int
    removals: int


class MeasuringMarks(NamedTuple):
    """The marks of the samples that are learned from, and those of the samples that are measured with."""

    learned: Marks
    held_out: Marks


class Fence(NamedTuple):
    """The serving epoch and the marks of one moment, which answers are checked against before they are given."""

    epoch: int
    marks: Marks


@dataclass(frozen=True)
class Sample:
    """A contributed image; one with the role `evaluation` has no cluster and no position (`registry.roles`)."""

    id: str
    owner: str
    label: str
    digest: str
    cluster: str | None
    created_at: datetime
    position: int | None
    role: Role = "training"


@dataclass(frozen=True)
class Prompt:
    """A built prompt."""

    key: str
    object_name: str
    digest: str
    labels: tuple[str, ...]
    members: int
    sample_epochs: int
    seconds: float
    trained_at: datetime
    published_epoch: int
    fingerprint: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class LayoutInForce:
    """The layout that gives recorded positions their meaning, and how to restore it.

    digest    None while positions mean nothing.
    spec      of the partition that it is a layout of.
    object    its artifact, if the spec is not enough; `checksum` is the SHA-256 of those bytes.
    kept      places of its anchors that have not been erased.
    failure   why the relayout to the wanted layout is blocked.
    """

    digest: str | None
    spec: Mapping[str, Any]
    object: str | None
    checksum: str | None
    kept: tuple[int, ...]
    failure: str | None = field(compare=False)


@dataclass(frozen=True)
class Cluster:
    """A region of the partition's line."""

    id: str
    lo: int
    hi: int
    samples: int
    unplanned: bool
    desired_key: str | None
    serving_key: str | None
    rebuild: bool
    urgent: bool
    settles_at: datetime | None
    unsettled_since: datetime | None
    withdrawn_at: datetime | None
    setbacks: int
    retrain_at: datetime | None
    attempts: int
    failure: str | None
    leased_until: datetime | None

    @property
    def differs(self) -> bool:
        """Whether the cluster is to be planned or trained."""
        return self.unplanned or self.desired_key != self.serving_key or self.rebuild


@dataclass(frozen=True)
class ErasureCluster:
    """A cluster in an erasure's record."""

    cluster: str
    prompt_before: str | None
    prompt_after: str | None
    state: str


@dataclass(frozen=True)
class Erasure:
    """An accepted erasure, and how far it has come."""

    id: str
    owner: str | None
    samples: int
    state: str
    planned_epoch: int | None
    accepted_at: datetime
    withdrawn_at: datetime
    completed_at: datetime | None
    restored_at: datetime | None
    due_at: datetime
    ledgered: bool
    ledger_attempts: int
    clusters: tuple[ErasureCluster, ...] = field(default=())


@dataclass(frozen=True)
class Tombstone:
    """The ledger's entry for an erasure: ids and a time, nothing that was ever personal."""

    erasure: str
    accepted_at: datetime
    samples: tuple[str, ...]


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its secret.

    last_used_at  to about a minute.
    replaced_by   id of the key that replaces it; it is valid beside that one until `expires_at`.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    replaced_by: str | None = None

    def has_expired(self, now: datetime) -> bool:
        """Whether its expiry has passed."""
        return self.expires_at is not None and self.expires_at <= now

    def is_active(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and not self.has_expired(now)


@dataclass(frozen=True)
class Process:
    """A process that sends heartbeats."""

    name: str
    beat_at: datetime

    def is_alive(self, now: datetime, within: timedelta) -> bool:
        """Whether its last heartbeat is that recent. One far in the future counts as old: the clock was set back."""
        return abs(now - self.beat_at) <= within


@dataclass(frozen=True)
class Worker(Process):
    """A worker process.

    device      what it trains on, and on which host.
    queues      that it listens to.
    heard_at    when its last notification arrived, if one has.
    claimed_at  when its last training began, if one has.
    """

    device: str
    queues: tuple[str, ...]
    heard_at: datetime | None
    claimed_at: datetime | None


@dataclass(frozen=True)
class Replica(Process):
    """An API process, and how far its closed-form tier has come.

    digest               of the tier at rest; None while it starts from the survivors, or has yet to choose lambda and
                         temperature.
    evaluation_removals  of so many evaluation samples nothing is in its memory; None: it computes nothing from any.
    """

    marks: Marks
    digest: str | None
    evaluation_removals: int | None = None


@dataclass(frozen=True)
class Page(Generic[T]):
    """Part of a list; `next_cursor` asks for the rest."""

    items: tuple[T, ...]
    next_cursor: str | None

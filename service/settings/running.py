"""Settings of what the processes work with: registry, store and workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from service.settings.group import Group


class RegistrySettings(Group):
    """How PostgreSQL is talked to; of no effect on SQLite."""

    pool: int = Field(10, ge=1, le=200, description="PostgreSQL connections that a process keeps.")
    overflow: int = Field(20, ge=0, le=200, description="... and how many more while many requests are answered.")
    connect_seconds: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    statement_seconds: float = Field(60.0, ge=0, description="Longest statement; 0: no limit.")
    lock_seconds: float = Field(15.0, ge=0, description="Longest wait for another transaction; 0: no limit.")
    idle_seconds: float = Field(60.0, ge=0, description="A silent process's transaction is ended; 0: never.")


class S3Settings(Group):
    """How an S3-compatible server is reached, where `store_url` names a bucket."""

    endpoint_url: str | None = Field(None, description="Of an S3-compatible server; default: Amazon's own.")
    region: str | None = Field(None, description="Default: the environment's (`AWS_DEFAULT_REGION`), or `us-east-1`.")
    access_key_id: str | None = Field(None, description="Default: what the environment, profile or role gives.")
    secret_access_key: SecretStr | None = Field(None, description="Given with `access_key_id`, or not at all.")
    addressing: Literal["path", "virtual"] | None = Field(
        None, description="Bucket in the `path` or as `virtual` host; default: `path` with an `endpoint_url`."
    )
    connect_seconds: float = Field(2.0, gt=0, description="Patience with a connection to be made.")
    read_seconds: float = Field(5.0, gt=0, description="Patience with an answer.")
    attempts: int = Field(2, ge=1, le=10, description="Of a request that fails for no fault of its own.")

    @property
    def addressing_style(self) -> str:
        """As botocore calls it."""
        return self.addressing or ("path" if self.endpoint_url else "virtual")

    @property
    def longest_seconds(self) -> float:
        """How long a request can take: every attempt, and the pauses between them (botocore's, at their longest)."""
        pauses = sum(min(2.0**attempt, 20.0) + 5.0 for attempt in range(self.attempts - 1))
        return self.attempts * (self.connect_seconds + self.read_seconds) + pauses

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key are given together, or neither is")
        if self.longest_seconds > 60:
            raise ValueError(
                f"a request could take {self.longest_seconds:.0f} s; choose attempts, connect_seconds and read_seconds "
                "so that it is 60 s at most"
            )
        if self.endpoint_url is not None:
            _check_endpoint(self.endpoint_url)
        return self


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("endpoint_url must look like https://host:port")
    if "@" in parts.netloc:
        raise ValueError("endpoint_url must hold no keys: use access_key_id and secret_access_key")


class WorkerSettings(Group):
    """Leases of workers, and heartbeats of all processes."""

    lease_seconds: float = Field(20.0, ge=1, description="A training whose worker is silent this long is given away.")
    heartbeat_seconds: float = Field(3.0, gt=0, description="Between two heartbeats of a worker or an API process.")
    reconcile_seconds: float = Field(5.0, gt=0, description="Between two looks for work without a notification.")
    deaf_seconds: float = Field(
        60.0,
        ge=1,
        description="A worker that receives no notification for this long while work waits for it starts anew.",
    )
    nice: int = Field(10, ge=0, le=19, description="Niceness of embedded workers: the API goes first.")
    processes: int = Field(1, ge=1, le=64, description="Embedded workers of `oubli serve`; each trains a cluster.")

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least three times heartbeat_seconds")
        return self

    @property
    def lease(self) -> timedelta:
        """How long a lease lasts without renewal."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def fresh(self) -> timedelta:
        """A process heard from within this time counts as alive."""
        return timedelta(seconds=max(4 * self.heartbeat_seconds, 10.0))

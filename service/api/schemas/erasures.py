"""Erasures over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from service.api.schemas.common import OWNER, OwnerSought, Schema
from service.core.erasure import Quote
from service.registry import records

State = Literal["withdrawn", "completed", "failed"]


class OwnerSubject(BaseModel):
    """All samples of one owner."""

    owner: str = Field(examples=OWNER["examples"])


class SamplesSubject(BaseModel):
    """A number of samples."""

    samples: int


class TouchedCluster(Schema):
    """A cluster that an erasure changes."""

    cluster: UUID
    prompt_before: str | None = Field(description="Key of the prompt that was withdrawn.")
    prompt_after: str | None = Field(description="Key of the prompt that took its place.")
    state: Literal["withdrawn", "retraining", "restored", "failed", "removed"] = Field(
        description="`withdrawn`: the erasure is accepted, and not planned yet. `retraining`: planned; a training is "
        "due or under way. `restored`, final: it has served a prompt built without the erased samples. `removed`, "
        "final: it exists no more, without samples or joined to others. `failed`: as many trainings failed as are "
        "allowed; it is tried again, and the erasure is completed all the same."
    )


class Erasure(BaseModel):
    """A request to forget, and how far it has come."""

    id: UUID
    subject: OwnerSubject | SamplesSubject
    state: State
    samples: int
    clusters: list[TouchedCluster]
    accepted_at: datetime
    withdrawn_at: datetime = Field(description="When use stopped: no later answer used a prompt that had seen it.")
    completed_at: datetime | None = Field(
        description="When nothing existed any more that knew the samples: prompts, bytes, rows and sums."
    )
    restored_at: datetime | None = Field(
        description="When each affected cluster had served a prompt built without them, or was gone; usually after "
        "`completed_at`. A later erasure may have withdrawn that prompt again."
    )
    failure: str | None = Field(None, description="If `failed`: what is in the way, and where to look.")
    due_at: datetime = Field(description="`accepted_at` plus `erasure_due_days`: until then it should be completed.")


class ErasureQuote(Schema):
    """The cost of an erasure, before it is made."""

    samples: int
    clusters: list[UUID] = Field(description="Clusters that would be affected.")
    sample_epochs: int = Field(description="Training that would be done again.")
    seconds: float | None = Field(description="Estimated training time; null before anything was trained.")
    full_sample_epochs: int = Field(description="What retraining everything would take.")
    described: int = Field(description="Samples that another adapter would describe anew: 0 outside the core.")


class ErasureRequest(BaseModel):
    """The samples to erase: some, or all of one owner."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": ["samples"]}, {"required": ["owner"]}],
            "examples": [{"owner": "customer-4711", "validate_only": True}],  # as it stands, it erases nothing
        },
    )

    samples: Annotated[list[UUID], Field(min_length=1, max_length=10_000)] | None = None
    owner: OwnerSought | None = Field(None, **OWNER)
    # Strict: "off", or 0, would be taken for false, and what was to be a question would erase.
    validate_only: StrictBool = Field(False, description="Answer with a quote, and change nothing.")

    @model_validator(mode="after")
    def _one_subject(self) -> ErasureRequest:
        if (self.samples is None) == (self.owner is None):
            raise ValueError("give either samples or owner")
        return self


def erasure_of(record: records.Erasure) -> Erasure:
    """From the registry's record."""
    named = record.owner is not None
    return Erasure(
        id=UUID(record.id),
        subject=OwnerSubject(owner=record.owner or "") if named else SamplesSubject(samples=record.samples),
        state=record.state,
        samples=record.samples,
        clusters=[TouchedCluster.model_validate(cluster) for cluster in record.clusters],
        accepted_at=record.accepted_at,
        withdrawn_at=record.withdrawn_at,
        completed_at=record.completed_at,
        restored_at=record.restored_at,
        failure=_failure(record) if record.state == "failed" else None,
        due_at=record.due_at,
    )


def _failure(record: records.Erasure) -> str:
    """The first thing that is in the way. An operator finds names and errors in the logs, not a client here."""
    if record.planned_epoch is None:
        return "Its samples cannot be moved to another layout: GET /partition says why. It is tried again."
    if not record.ledgered and record.ledger_attempts:
        return "Its tombstone cannot be written to the erasure ledger; the logs say why. It is tried again."
    return "Its objects cannot be deleted, or the database not be scrubbed; the logs say why. It is tried again."


def quote_of(quote: Quote) -> ErasureQuote:
    """From the use case's answer."""
    return ErasureQuote.model_validate(quote)

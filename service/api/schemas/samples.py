"""Samples over the wire."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.common import LABEL, OWNER, Label, Owner, Problem, Schema
from service.registry import records
from service.registry.records import Role
from service.registry.roles import ROLES, TRAINING

ROLE: dict[str, Any] = {
    "description": "`training`: to be learned from. `core`: the adapter is trained on it as well, and erasing it "
    "costs more. `evaluation`: never learned from; `GET /quality` measures with it."
}


class Sample(Schema):
    """A contributed image."""

    id: UUID
    owner: str = Field(description="The client's own reference for the person, in NFC.", examples=OWNER["examples"])
    label: str = Field(examples=LABEL["examples"])
    digest: str = Field(description="SHA-256 of the decoded pixels; metadata is dropped.")
    role: Role = Field(description="What it is for: to be learned from, the adapter's core, or to measure with.")
    state: Literal["active"] = "active"
    cluster: UUID | None = Field(
        description="The cluster it was routed to; a later re-cut may move it. Null with the role `evaluation`."
    )
    created_at: datetime


class SaidOfRaw(BaseModel):
    """Label, owner and role in the query, of an image that is the body itself; unused beside multipart."""

    label: Label | None = Field(None, description="With an image as the body itself.", examples=LABEL["examples"])
    owner: Owner | None = Field(None, description="With an image as the body itself.", examples=OWNER["examples"])
    role: Role | None = Field(None, description="With an image as the body itself.")


class BatchMetadata(BaseModel):
    """Label, owner and role of one image of a batch. Checked with its image, so that only this one is refused."""

    model_config = ConfigDict(extra="forbid")

    label: str
    owner: str
    role: str = Field(TRAINING, description=ROLE["description"], json_schema_extra={"enum": list(ROLES)})
    unless_held: int | None = Field(
        None,
        ge=1,
        description="Not if so many samples of this owner under this label, with this role, are this very picture: the "
        "answer is the last of these then, with status 200.",
    )


METADATA: dict[str, Any] = {
    "description": "JSON list of {label, owner}, in the order of the images; `role` and `unless_held` may be added.",
    "examples": [json.dumps([{"label": LABEL["examples"][0], "owner": OWNER["examples"][0]}])],
}


class BatchItem(BaseModel):
    """Outcome of one image of a batch: its sample, or its problem."""

    status: int = Field(description="201; 200 if it was on record already, as `unless_held` asked; or the problem's.")
    sample: Sample | None = None
    problem: Problem | None = None


class BatchResult(BaseModel):
    """One entry an image, in order."""

    items: list[BatchItem]


class LabelCount(BaseModel):
    """A label that samples to learn from have."""

    label: str = Field(examples=LABEL["examples"])
    samples: int


def sample_of(record: records.Sample) -> Sample:
    """From the registry's record."""
    return Sample.model_validate(record)

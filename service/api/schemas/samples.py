"""Samples over the wire."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.common import LABEL, OWNER, Label, Owner, Problem, Schema
from service.registry import records


class Sample(Schema):
    """A contributed image."""

    id: UUID
    owner: str = Field(description="The client's own reference for the person, in NFC.", examples=OWNER["examples"])
    label: str = Field(examples=LABEL["examples"])
    digest: str = Field(description="SHA-256 of the decoded pixels; metadata is dropped.")
    state: Literal["active"] = "active"
    cluster: UUID = Field(description="The cluster it was routed to; a later re-cut may move it.")
    created_at: datetime


class SaidOfRaw(BaseModel):
    """Label and owner in the query, of an image that is the body itself; unused beside multipart."""

    label: Label | None = Field(None, description="With an image as the body itself.", examples=LABEL["examples"])
    owner: Owner | None = Field(None, description="With an image as the body itself.", examples=OWNER["examples"])


class BatchMetadata(BaseModel):
    """Label and owner of one image of a batch. Checked with its image, so that only this one is refused."""

    model_config = ConfigDict(extra="forbid")

    label: str
    owner: str
    unless_held: int | None = Field(
        None,
        ge=1,
        description="Not if so many samples of this owner under this label are this very picture: the answer is the "
        "last of these then, with status 200.",
    )


METADATA: dict[str, Any] = {
    "description": "JSON list of {label, owner}, in the order of the images; `unless_held` may be added.",
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
    """A label in use."""

    label: str = Field(examples=LABEL["examples"])
    samples: int


def sample_of(record: records.Sample) -> Sample:
    """From the registry's record."""
    return Sample.model_validate(record)

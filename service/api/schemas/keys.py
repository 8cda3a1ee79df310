"""API keys over the wire. A secret is in the answer that makes it, and in no other."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

from service.api.schemas.common import Schema
from service.core.access import LONGEST_NAME, LONGEST_OVERLAP, OVERLAP

Scope = Literal["samples", "predict", "erase", "read", "admin"]

_DAY = 86_400


def _as_text(value: object) -> object:
    """A number would be taken for seconds since 1970, also as text. Raises ValueError."""
    if not isinstance(value, (str, datetime)) or (isinstance(value, str) and "-" not in value.strip()[1:]):
        raise ValueError("give a date and time such as 2030-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_text)]


class Key(Schema):
    """An API key, without its secret."""

    id: UUID
    name: str = Field(description="What it is for.")
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None = Field(description="It is refused from then on; null: it does not expire.")
    last_used_at: datetime | None = Field(description="To about a minute; null: never.")
    revoked_at: datetime | None
    replaced_by: UUID | None = Field(description="The key that it was rotated to.")


class NewKey(Key):
    """An API key that has just been made."""

    secret: str = Field(description="What to send as `Authorization: Bearer …`. It is not to be had again.")


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scopes": ["samples", "predict"], "name": "camera at the door"}]},
    )

    scopes: Annotated[list[Scope], Field(min_length=1, max_length=16)] = Field(
        description="What it may do; `admin` may do everything."
    )
    name: Annotated[str, Field(max_length=LONGEST_NAME)] = Field("", description="What it is for.")
    expires_at: Moment | None = Field(None, description="With a time zone; null: it does not expire.")


class RotationRequest(BaseModel):
    """Terms of a key's rotation."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"overlap_seconds": _DAY}]})

    overlap_seconds: Annotated[StrictInt, Field(ge=0, le=int(LONGEST_OVERLAP.total_seconds()))] = Field(
        int(OVERLAP.total_seconds()), description="How long the old key is valid beside the new one."
    )
    expires_at: Moment | None = Field(
        None, description="Of the new key; null: it lives as long as the old one was given, from now on."
    )

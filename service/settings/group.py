"""What the settings of one concern have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """Settings of one concern; an unknown name is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""Shapes that every answer shares."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")

Reference = Annotated[str, Field(min_length=1, max_length=128)]


class Schema(BaseModel):
    """Read from frozen records, written as snake_case JSON."""

    model_config = ConfigDict(from_attributes=True)


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Where: `body.label`, `query.limit`, `images[3]`.")
    detail: str


class Problem(BaseModel):
    """A problem as RFC 9457 describes it (`application/problem+json`)."""

    type: str = Field("about:blank", description="A URI naming the kind of problem.")
    title: str = Field(description="The kind of problem, always in the same words.")
    status: int
    detail: str = Field(description="What happened this time, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[FieldProblem] | None = Field(None, description="For validation: each field that is wrong.")


class Listing(BaseModel, Generic[Item]):
    """A page of a list; `next_cursor` asks for the rest, null at the end."""

    items: list[Item]
    next_cursor: str | None

"""Shapes that every answer shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.core.text import MOST, check_owner, check_text
from service.errors import URN, Invalid, kinds

Item = TypeVar("Item")


def _checked(check: Callable[[str], str]) -> AfterValidator:
    """The check of `service.core.text` as pydantic's: its words are told with the field's place."""

    def validate(value: str) -> str:
        try:
            return check(value)
        except Invalid as error:
            raise ValueError(error.detail) from None

    return AfterValidator(validate)


# Said, and not checked by pydantic: characters are counted once the text is normalised.
_LENGTHS = Field(json_schema_extra={"minLength": 1, "maxLength": MOST})

Label = Annotated[str, _checked(lambda value: check_text("label", value)), _LENGTHS]
Owner = Annotated[str, _checked(check_owner), _LENGTHS]
OwnerSought = Annotated[str, _checked(lambda value: check_text("owner", value)), _LENGTHS]  # of old ones, any

_ONE_SPELLING = "Outer blanks are dropped, and the text is kept in Unicode's NFC."
LABEL: dict[str, Any] = {"description": f"What the image shows. {_ONE_SPELLING}", "examples": ["tabby cat"]}
OWNER: dict[str, Any] = {
    "description": (
        f"Your reference for the person, not `.` or `..`. {_ONE_SPELLING} Case counts: `Ada` and `ada` are two."
    ),
    "examples": ["customer-4711"],
}


_CODES: dict[str, Any] = {"enum": [kind.code for kind in kinds()]}  # a later release may know more


class Schema(BaseModel):
    """Read from frozen records, written as snake_case JSON."""

    model_config = ConfigDict(from_attributes=True)


class FieldProblem(BaseModel):
    """A field, and its problem."""

    field: str = Field(description="Where: `body.label`, `query.limit`, `images[3]`.")
    detail: str
    code: str | None = Field(None, description="The kind of this image's problem, where several have one.")


class Problem(BaseModel):
    """A problem as RFC 9457 describes it (`application/problem+json`)."""

    type: str = Field(description=f"The kind of problem as a URI: `{URN}` and the code.")
    code: str = Field(description="The kind of problem, for programs: it never changes.", json_schema_extra=_CODES)
    title: str = Field(description="The kind of problem, always in the same words.")
    status: int
    detail: str = Field(description="What happened this time, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[FieldProblem] | None = Field(None, description="For validation: fields that are wrong, at most 20.")


class Listing(BaseModel, Generic[Item]):
    """A page of a list; `next_cursor` asks for the rest, null at the end."""

    items: list[Item]
    next_cursor: str | None

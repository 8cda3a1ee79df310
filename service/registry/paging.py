"""Opaque cursors: each says where a page ended, so that lists stay correct while rows come and go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from service.errors import Invalid
from service.registry.records import Page

Row = TypeVar("Row")
Item = TypeVar("Item")


def encode(place: str) -> str:
    """A cursor for a place in the list's order."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def decode(cursor: str) -> str:
    """The place that a cursor names. Raises Invalid for a cursor that was never returned."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError, ValueError):
        raise _unknown() from None


def decode_number(cursor: str) -> int:
    """The place in a list that is ordered by a number. Raises Invalid."""
    place = decode(cursor)
    if not place.isdigit() or len(place) > 18:
        raise _unknown()
    return int(place)


def decode_id(cursor: str) -> str:
    """The place in a list that is ordered by id. Raises Invalid."""
    try:
        return str(UUID(decode(cursor)))
    except ValueError:
        raise _unknown() from None


def _unknown() -> Invalid:
    return Invalid("This cursor was not returned by a list.")


def page(rows: Sequence[Row], limit: int, *, item: Callable[[Row], Item], place: Callable[[Row], str]) -> Page[Item]:
    """A page of `limit` items from limit + 1 rows: the extra row tells whether there is more."""
    kept = rows[:limit]
    more = encode(place(kept[-1])) if len(rows) > limit else None
    return Page(tuple(item(row) for row in kept), more)

"""Text from clients: owners' references, labels, names of keys. One spelling of each, and no invisible characters.

Text that looks the same is the same: it is kept in NFC (Unicode Standard Annex 15), so `José` typed on one system and
`José` from another's file names are one owner. NFC of assigned characters never changes between versions of Unicode;
others are refused. Case is kept and counts: `Ada` and `ada` are two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from service.errors import Invalid

MOST = 128  # characters of an owner or a label
_LONGER = 3  # code points, at most, that NFC makes of one
_APART = 4  # code points, at most, that one of NFC is made of

_REFUSED = {
    "Cc": "a control character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Cn": f"not assigned in Unicode {unicodedata.unidata_version}",
}
_OVERRIDES = {"LRO", "RLO"}  # bidirectional overrides show text in another order than it has


def normalised(text: str) -> str:
    """The one spelling of a text: NFC, without outer blanks."""
    return unicodedata.normalize("NFC", text).strip()


def check_text(name: str, value: str, *, most: int = MOST) -> str:
    """The text, `normalised`. Raises Invalid, naming the code points that it must not contain.

    name  of the field, for the refusal.
    most  characters; marks that combine with one do not count (there are scripts that NFC takes apart).
    """
    # Normalising takes the square of the time for a run of marks, ten minutes for a megabyte, under Python's lock.
    if len(value.strip()) > most * _LONGER * _APART:
        raise Invalid(f"{name} must have 1 to {most} characters.")
    text = normalised(value.strip())
    characters = sum(not unicodedata.category(point).startswith("M") for point in text)
    if not text or characters > most or len(text) > most * _LONGER:
        raise Invalid(f"{name} must have 1 to {most} characters.")
    if refused := list(dict.fromkeys(_refused(text))):
        raise Invalid(f"{name} must not contain {', '.join(refused[:3])}.")
    return text


def _refused(text: str) -> Iterator[str]:
    """Each code point that is not allowed, and what it is."""
    for point in text:
        why = _REFUSED.get(unicodedata.category(point))
        if why is None and unicodedata.bidirectional(point) in _OVERRIDES:
            why = "a bidirectional override"
        if why is not None:
            yield f"U+{ord(point):04X} ({why})"


def check_owner(value: str) -> str:
    """A new owner's reference, normalised. Raises Invalid.

    `.` and `..` cannot be part of a path, not even escaped (https://url.spec.whatwg.org/#double-dot-path-segment):
    `DELETE /owners/..` would never arrive. To look one up that an earlier release took in, use `check_text`.
    """
    text = check_text("owner", value)
    if text in (".", ".."):
        raise Invalid(
            f"owner must not be {text!r}: no client could send DELETE /owners/{text}. Choose another reference."
        )
    return text

"""What an audit finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A difference; or, with `comparable` False, something that cannot be compared on this machine."""

    subject: str
    reason: str
    comparable: bool = True

"""What an audit finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[str, int, int], None]  # (what is being checked, done, of how many)


@dataclass(frozen=True)
class Finding:
    """A difference; or, with `comparable` False, something that cannot be compared on this machine."""

    subject: str
    reason: str
    comparable: bool = True

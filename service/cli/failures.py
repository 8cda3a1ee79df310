"""Messages of commands that fail: one line, what is wrong and what to do. Tracebacks are for mistakes of Oubli.

Exit status 1: what was asked for was not done, or not all of it. 2: it could not begin, as it was called or set up.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from service.cli.printing import plain
from service.errors import DISK_FULL, Invalid, ServiceError

NOT_DONE = 1
CANNOT_BEGIN = 2

_NOT_MIGRATED = "There is no registry of this release here. Is the data folder right? If so, run `oubli migrate`."
_DAMAGED = "The registry is damaged, or no SQLite database ({reason}). Restore a backup, as docs/how-to/backup.md says."
_UNDEFINED = {"42P01", "42703"}  # PostgreSQL: a table, a column
_NOT_OPENED = "The registry cannot be opened ({reason}). Is the data folder right, and yours to write in?"


class Misused(Invalid):
    """The command was called with what makes no sense."""

    code = "misused"


def words_of(error: BaseException) -> tuple[str, int] | None:
    """Message and exit status of a failure; None for one that this module does not know."""
    if isinstance(error, ServiceError):
        begins = error.status == 500 or isinstance(error, Misused)
        return error.detail, CANNOT_BEGIN if begins else NOT_DONE
    words = _of_database(getattr(error, "orig", error))  # which SQLAlchemy wraps; it is not loaded for this
    if words is not None:
        return words, CANNOT_BEGIN
    if isinstance(error, OSError):
        return _of_system(error), CANNOT_BEGIN
    return None


def _of_database(error: object) -> str | None:
    """What a driver says of its database; None for what it says of a statement: that would be our mistake."""
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    state = getattr(error, "sqlstate", None) or ""
    if state in _UNDEFINED:
        return _NOT_MIGRATED
    if isinstance(error, Exception) and type(error).__module__.startswith("psycopg") and _is_operational(error, state):
        return f"The registry's database refuses: {_first_line(error)}."
    return None


def _is_operational(error: Exception, state: str) -> bool:
    """Whether a server or its administrator is the reason; 28 and 42501 are of rights that are missing."""
    return state.startswith(("28", "42501")) or any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def _of_sqlite(error: sqlite3.Error) -> str | None:
    reason = _first_line(error)
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return _DAMAGED.format(reason=reason)
    if reason.startswith("no such "):
        return _NOT_MIGRATED
    if name.startswith("SQLITE_FULL"):
        return DISK_FULL
    return _NOT_OPENED.format(reason=reason) if isinstance(error, sqlite3.OperationalError) else None


def _of_system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Make room, and try again."
    reason = error.strerror or _first_line(error)
    if error.filename is None:
        return f"The system refuses: {reason}."
    place = error.filename if isinstance(error.filename, int) else plain(Path(os.fsdecode(error.filename)))
    return f"{place}: {reason}. Is the path right, and yours to use?"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

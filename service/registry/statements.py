"""SQL that several repositories need: values in chunks, insert-or-ignore and upsert, alike on both databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.registry.engine import ReadSession, WriteSession
from service.registry.tables import Base

Value = TypeVar("Value")

CHUNK = 500  # values in one IN list, or rows in one INSERT; SQLite's limit is 32,766 parameters


def chunked(values: Sequence[Value]) -> Iterator[list[Value]]:
    """The values, in lists of at most `CHUNK`."""
    return (list(values[start : start + CHUNK]) for start in range(0, len(values), CHUNK))


def insert_or_ignore(session: WriteSession, table: type[Base], *, key: Sequence[str] | None = None) -> sa.Insert:
    """An INSERT that passes over rows which are there already.

    key  columns whose values must differ from every row's; None: any constraint.
    """
    return _insert(session, table).on_conflict_do_nothing(index_elements=key)


def upsert(
    session: WriteSession,
    table: type[Base],
    values: Mapping[str, Any],
    *,
    key: Sequence[str],
    otherwise: Mapping[str, Any],
) -> None:
    """Insert a row; where one with these values in the columns `key` exists, set `otherwise` in that one."""
    session.execute(
        _insert(session, table).values(**values).on_conflict_do_update(index_elements=key, set_=dict(otherwise))
    )


def _insert(session: ReadSession, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """The dialect's own INSERT: SQLAlchemy's common one knows no ON CONFLICT."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement: postgresql.Insert | sqlite.Insert = dialect.insert(table)
    return statement

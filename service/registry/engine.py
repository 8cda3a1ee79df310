"""Opening the registry: engines, the two kinds of session, and migrations.

SQLite: WAL, foreign keys, `secure_delete` (freed pages are overwritten), full synchronisation, and `BEGIN IMMEDIATE`
for writes, so that a transaction never fails halfway for want of the lock. PostgreSQL: reads see one snapshot
(REPEATABLE READ); writes take a shared advisory lock that a re-cut of the partition takes exclusively.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.orm import Session

import migrations
from service.errors import DISK_FULL, Misconfigured, OutOfSpace, Unavailable

_BUSY_MS = 15_000  # how long SQLite waits for a lock
_SCRUB_MS = 250  # ... and a scrub for readers: meanwhile it holds up every writer
_PLAN_LOCK = 0x0B11  # any constant: the advisory lock's name on PostgreSQL


class ReadSession(Session):
    """A snapshot. Anything it is handed to can only ask."""


class WriteSession(ReadSession):
    """A transaction, committed by whoever opened it."""


class Registry:
    """The open registry of one process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = _parse(url).get_backend_name() == "sqlite"
        self.engine: sa.Engine = _make_engine(url, sqlite=self.is_sqlite)
        read, write = ({}, {"oubli_write": True}) if self.is_sqlite else ({"isolation_level": "REPEATABLE READ"}, {})
        self._reader: sa.Engine = self.engine.execution_options(**read)
        self._writer: sa.Engine = self.engine.execution_options(**write)

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """A read-only snapshot."""
        with ReadSession(self._reader) as session:
            yield session

    @contextmanager
    def write(self, *, exclusive: bool = False) -> Iterator[WriteSession]:
        """One transaction, committed at the end of the block, rolled back if it raises. OutOfSpace if the disk is full.

        exclusive  no other write runs meanwhile; for changes of the partition.
        """
        with _in_words(), WriteSession(self._writer, expire_on_commit=False) as session, session.begin():
            if not self.is_sqlite:
                lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
                session.execute(sa.text(f"SELECT {lock}(:name)"), {"name": _PLAN_LOCK})
            yield session

    def scrub(self) -> bool:
        """Remove what deleted rows left behind in the database's files. False: others were in the way, try again.

        SQLite only; on PostgreSQL dead rows go with VACUUM, which is the server's own business. `secure_delete` is not
        enough: it overwrites a row where it stands, not the copies that moving it between pages has left in free
        space. So the file is written anew, and the log is cut to nothing.
        """
        if not self.is_sqlite:
            return True
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_SCRUB_MS}")
            cursor.execute("PRAGMA temp_store=MEMORY")
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            ((busy, *_),) = cursor.fetchall()
            return bool(busy == 0)
        except sqlite3.OperationalError:  # "database is locked"
            return False
        finally:
            connection.cursor().execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            connection.close()

    def is_current(self) -> bool:
        """Whether the schema is exactly this release's, by the pooled connections."""
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == _head()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


@contextmanager
def _in_words() -> Iterator[None]:
    """A full disk as OutOfSpace; a lock that SQLite could not get in time as Unavailable."""
    try:
        yield
    except sa.exc.OperationalError as error:
        code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
        if code in ("SQLITE_FULL", "53100"):
            raise OutOfSpace(DISK_FULL) from None
        if code == "SQLITE_BUSY":
            raise Unavailable("The registry is busy with a long change. Try again in a moment.") from None
        raise


def _parse(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except sa.exc.ArgumentError:  # without the URL: it may hold a password
        raise Misconfigured("OUBLI_DATABASE_URL is no URL such as postgresql+psycopg://user@host/name.") from None


def _make_engine(url: str, *, sqlite: bool) -> sa.Engine:
    if not sqlite:
        return sa.create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20, hide_parameters=True)
    # Parameters are labels, owners, digests: they must not come into logs with an error's words.
    engine = sa.create_engine(
        url, connect_args={"timeout": 15, "check_same_thread": False}, pool_size=20, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
            f"busy_timeout={_BUSY_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("oubli_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = url
    return config


@cache
def _head() -> str | None:
    """The newest revision that this release knows."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


def migrate(url: str) -> None:
    """Bring the registry to this release's schema; refuse one that a newer release made."""
    backend = _parse(url)
    if backend.get_backend_name() == "sqlite" and backend.database:
        Path(backend.database).parent.mkdir(parents=True, exist_ok=True)
    check_known(url)
    alembic.command.upgrade(_config(url), "head")


def check_known(url: str) -> str | None:
    """The schema's revision, None when there is none. Raises Misconfigured if this release does not know it.

    Raises Unavailable while the database does not answer.
    """
    registry = Registry(url)
    try:
        with registry.engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except sa.exc.OperationalError:
        raise Unavailable(f"The registry's database does not answer: {_parse(url).render_as_string()}.") from None
    finally:
        registry.close()
    if revision is not None:
        try:
            ScriptDirectory.from_config(_config(url)).get_revision(revision)
        except CommandError:
            raise Misconfigured(
                f"This registry's schema ({revision}) is newer than this release of Oubli knows. "
                "Start it with the release that made it, or a later one; nothing has been changed."
            ) from None
    return revision


def is_migrated(url: str) -> bool:
    """Whether the schema is exactly this release's."""
    return check_known(url) == _head()


def check_migrations(url: str) -> None:
    """Raise if the migrated schema and `tables` differ (`alembic check`)."""
    alembic.command.check(_config(url))

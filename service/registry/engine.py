"""Opening the registry: engines, the two kinds of session, and migrations.

SQLite: WAL, foreign keys, `secure_delete` (freed pages are overwritten), full synchronisation, and `BEGIN IMMEDIATE`
for writes, so that a transaction never fails halfway for want of the lock. PostgreSQL: reads see one snapshot
(REPEATABLE READ); writes take a shared advisory lock, which a change of the partition takes exclusively; no statement
waits without limit for an answer, a lock or another transaction (`ConnectionOptions`).

A database that is unreachable or overloaded raises `Unavailable`: the caller may try again. If the connection broke
during a commit, the caller must ask whether the transaction took place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.orm import Session

import migrations
from service import private
from service.errors import DISK_FULL, Misconfigured, OutOfSpace, Unavailable

_BUSY_MS = 15_000  # how long SQLite waits for a lock
_SCRUB_MS = 250  # how long a scrub waits for readers: meanwhile it holds up every writer
# Names of advisory locks on PostgreSQL: any constants. An exclusive transaction takes the turn lock first, so that one
# of them at a time waits for the plan lock: every writer that comes then waits behind it.
_PLAN_LOCK, _TURN_LOCK = 0x0B11, 0x0B12
_LOCK_TURN = sa.text("SELECT pg_advisory_xact_lock(:name)")
_LOCK_SHARED = sa.text("SELECT pg_advisory_xact_lock_shared(:name)")
# A move of millions of samples computes between its statements, and its statements are long.
_LOCK_EXCLUSIVE = sa.text(
    "SELECT set_config('idle_in_transaction_session_timeout', '30min', true), "
    "set_config('statement_timeout', '30min', true), pg_advisory_xact_lock(:name)"
)


class ReadSession(Session):
    """A read-only snapshot of the registry; functions that take one only query."""


class WriteSession(ReadSession):
    """A transaction, committed by the caller that opened it."""


class Needless(Exception):
    """Another process has done the work meanwhile."""


Needed = Callable[[ReadSession], bool]
Database = str | Path  # an SQLAlchemy URL; or the file of SQLite, which is never parsed as one


@dataclass(frozen=True)
class ConnectionOptions:
    """Connections to PostgreSQL, and their timeouts in seconds; of no effect on SQLite.

    pool, overflow  connections that are kept open, and how many more may be opened under load.
    connect         longest wait for a connection, new or from the pool.
    statement       longest statement.
    lock            longest wait for a lock of another transaction.
    idle            longest silence of a process within a transaction, which may hold locks; then it is ended.
    """

    pool: int = 10
    overflow: int = 20
    connect: float = 5.0
    statement: float = 60.0
    lock: float = 15.0
    idle: float = 60.0


class Registry:
    """The open registry of one process."""

    def __init__(self, database: Database, options: ConnectionOptions | None = None) -> None:
        url = _parse(database)
        self.url = database
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.engine: sa.Engine = _make_sqlite(url) if self.is_sqlite else _make_postgres(url, options)
        read, write = ({}, {"oubli_write": True}) if self.is_sqlite else ({"isolation_level": "REPEATABLE READ"}, {})
        read_one = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader: sa.Engine = self.engine.execution_options(**read)
        self._writer: sa.Engine = self.engine.execution_options(**write)
        self._autocommit: sa.Engine = self.engine.execution_options(**read_one)

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """A read-only snapshot. Raises Unavailable."""
        with _translated(), ReadSession(self._reader) as session:
            yield session

    @contextmanager
    def read_one(self) -> Iterator[ReadSession]:
        """A session for one statement, without the cost of a transaction around it. Raises Unavailable."""
        with _translated(), ReadSession(self._autocommit) as session:
            yield session

    @contextmanager
    def write(self, *, exclusive: bool = False, needed: Needed | None = None) -> Iterator[WriteSession]:
        """One transaction, committed at the end of the block, rolled back if it raises.

        Raises OutOfSpace if the disk is full; Unavailable if the database is away, in which case the transaction may
        have been committed.

        exclusive  no other transaction of `write` runs meanwhile; for changes of the partition.
        needed     of an exclusive one: asked again when its turn has come. If it says no, Needless is raised before
                   any writer is delayed: of several processes that see the same work, one does it.
        """
        with self.write_beside_plans() as session:
            if exclusive:
                if not self.is_sqlite:
                    session.execute(_LOCK_TURN, {"name": _TURN_LOCK})
                if needed is not None and not needed(session):
                    raise Needless
            if not self.is_sqlite:
                session.execute(_LOCK_EXCLUSIVE if exclusive else _LOCK_SHARED, {"name": _PLAN_LOCK})
            yield session

    @contextmanager
    def write_beside_plans(self) -> Iterator[WriteSession]:
        """A transaction that may run beside a plan, and never waits for one: heartbeats, leases, tickets of requests.

        Committed at the end of the block, rolled back if it raises. Raises as `write` does.
        """
        with _translated(), WriteSession(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def scrub(self) -> bool:
        """Remove deleted rows from the database's files. False if readers were in the way: to be tried again.

        SQLite only; on PostgreSQL the server's VACUUM removes dead rows. `secure_delete` is not enough: it overwrites a
        row in its page, not the copies that were left in free space when the row moved between pages. So the file is
        rewritten, and the log is truncated.
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
        """Whether the schema is exactly this release's, asked through a pooled connection."""
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == _head()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


_BUSY = "The registry is busy with a long change. Try again in a moment."
_AWAY = "The registry's database does not answer just now. Try again in a moment."
_NO_ROOM = {"SQLITE_FULL", "53100"}
# SQLite: locked. PostgreSQL: lock_not_available, query_canceled, deadlock_detected, serialization_failure.
_NO_TIME = {"SQLITE_BUSY", "55P03", "57014", "40P01", "40001"}
# admin_shutdown, crash_shutdown, cannot_connect_now, idle_in_transaction_session_timeout, too_many_connections
_NOT_THERE = {"57P01", "57P02", "57P03", "25P03", "53300"}


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the database's state (full, busy, away) into ServiceErrors; errors of a statement pass through."""
    try:
        yield
    except sa.exc.TimeoutError:  # no connection of the pool has come free
        raise Unavailable(_BUSY) from None
    except sa.exc.DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
        if code in _NO_ROOM:
            raise OutOfSpace(DISK_FULL) from None
        if code in _NO_TIME:
            raise Unavailable(_BUSY) from None
        if _is_away(error, code):
            raise Unavailable(_AWAY) from None
        raise


def _is_away(error: sa.exc.DBAPIError, code: str | None) -> bool:
    """Whether the connection is gone, or was never made; libpq then gives no SQLSTATE."""
    if code is not None:
        return code in _NOT_THERE or code.startswith("08")
    return error.connection_invalidated or isinstance(error.orig, psycopg.OperationalError)


def _parse(database: Database) -> sa.URL:
    if isinstance(database, Path):
        return sa.URL.create("sqlite", database=str(database.absolute()))
    try:
        return sa.make_url(database)
    except sa.exc.ArgumentError:  # without the URL: it may hold a password
        raise Misconfigured("OUBLI_DATABASE_URL is no URL such as postgresql+psycopg://user@host/name.") from None


def _make_postgres(url: sa.URL, options: ConnectionOptions | None) -> sa.Engine:
    chosen = options or ConnectionOptions()
    limits = {
        "statement_timeout": chosen.statement,
        "lock_timeout": chosen.lock,
        "idle_in_transaction_session_timeout": chosen.idle,
    }
    return sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_size=chosen.pool,
        max_overflow=chosen.overflow,
        pool_timeout=chosen.connect,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(2, round(chosen.connect)),  # libpq takes whole seconds, two at least
            "options": " ".join(f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items()),
            # A server that vanished (no FIN, no RST) is noticed within the time allowed for a statement.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )


def _make_sqlite(url: sa.URL) -> sa.Engine:
    # Parameters are labels, owners, digests: they must not appear in logs as part of an error's message.
    engine = sa.create_engine(
        url, connect_args={"timeout": 15, "check_same_thread": False}, pool_size=20, hide_parameters=True
    )

    @event.listens_for(engine, "do_connect")
    def make_private(_dialect: Any, _record: Any, arguments: Any, _options: Any) -> None:
        """Create the file with its owner's rights alone: SQLite would let others read it, and its log and index.

        An existing file is left alone: opening and closing it here would drop the locks that SQLite has on it.
        """
        with suppress(OSError):  # SQLite's own message is better
            if os.path.isabs(arguments[0]):
                os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL, private.FILE))

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


def _config(database: Database) -> Config:
    config = Config()
    folder = str(Path(migrations.__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))  # ConfigParser interpolates `%`
    config.attributes["database"] = database
    return config


@cache
def _head() -> str | None:
    """The newest revision that this release knows."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


def migrate(database: Database) -> None:
    """Bring the registry to this release's schema. Raises Misconfigured for a schema that a newer release made."""
    url = _parse(database)
    if url.get_backend_name() == "sqlite" and url.database:
        folder = Path(url.database).parent
        try:
            private.make_folder(folder)
        except OSError as error:
            raise Misconfigured(f"The folder {folder} cannot be used: {error.strerror}.") from None
    check_known(database)
    alembic.command.upgrade(_config(database), "head")


def check_known(database: Database) -> str | None:
    """The schema's revision, None without a schema. Raises Misconfigured if this release does not know it.

    Raises Unavailable while the database does not answer.
    """
    registry = Registry(database)
    try:
        with registry.engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except sa.exc.OperationalError:
        raise Unavailable(f"The registry's database does not answer: {_parse(database).render_as_string()}.") from None
    finally:
        registry.close()
    if revision is not None:
        try:
            ScriptDirectory.from_config(_config(database)).get_revision(revision)
        except CommandError:
            raise Misconfigured(
                f"This registry's schema ({revision}) is newer than this release of Oubli knows. "
                "Start it with the release that made it, or a later one; nothing has been changed."
            ) from None
    return revision


def is_migrated(database: Database) -> bool:
    """Whether the schema is exactly this release's."""
    return check_known(database) == _head()


def check_migrations(database: Database) -> None:
    """Raise if the migrated schema and `tables` differ (`alembic check`)."""
    alembic.command.check(_config(database))

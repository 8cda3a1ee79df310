"""A PostgreSQL that goes, hangs, or has no time: in words, within bounds, and well again by itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from uuid import uuid4

import pytest
import sqlalchemy as sa

from service.errors import Unavailable
from service.registry import state
from service.registry.engine import ConnectionOptions, Registry, check_known
from service.registry.tables import StateRow
from tests.world import postgres_only

pytestmark = [postgres_only, pytest.mark.postgres]

IMPATIENT = ConnectionOptions(pool=2, overflow=0, connect=2.0, statement=0.3, lock=0.3, idle=0.3)
AWAY = "does not answer"
BUSY = "busy"


@pytest.fixture
def impatient(registry: Registry) -> Iterator[Registry]:
    with closing(Registry(registry.url, IMPATIENT)) as opened:
        yield opened


def cut_everybody(url: str) -> None:
    """What an operator's restart does to connections, without the restart."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
    with engine.connect() as connection:
        connection.execute(sa.text(others), {"name": engine.url.database})
    engine.dispose()


def bump(registry: Registry, before_the_end: Callable[[], None]) -> None:
    with registry.write() as session:
        state.bump_epoch(session)
        before_the_end()


def test_a_connection_cut_within_a_transaction_is_said_and_undone(registry: Registry) -> None:
    with pytest.raises(Unavailable, match=AWAY):
        bump(registry, lambda: cut_everybody(registry.url))
    with registry.read() as session:
        assert state.epoch(session) == 0


def test_connections_cut_while_nobody_used_them_are_not_noticed(registry: Registry) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(5):
                state.epoch(stack.enter_context(registry.read()))
        cut_everybody(registry.url)
        bump(registry, lambda: None)
    with registry.read_one() as session:
        assert state.fence(session).epoch == 3


def test_nobody_waits_for_a_lock_for_ever(registry: Registry, impatient: Registry) -> None:
    with registry.write() as session:
        state.bump_epoch(session)
        with pytest.raises(Unavailable, match=BUSY):
            bump(impatient, lambda: None)
    bump(impatient, lambda: None)


def test_nobody_waits_for_ever_to_be_alone(registry: Registry, impatient: Registry) -> None:
    with registry.write(), pytest.raises(Unavailable, match=BUSY), impatient.write(exclusive=True):
        pass


def test_a_statement_that_takes_too_long_is_given_up(impatient: Registry) -> None:
    with pytest.raises(Unavailable, match=BUSY), impatient.read() as session:
        session.execute(sa.text("SELECT pg_sleep(30)"))


def test_who_is_alone_has_time(impatient: Registry) -> None:
    with impatient.write(exclusive=True) as session:
        session.execute(sa.text("SELECT pg_sleep(0.6)"))
        time.sleep(0.6)
        state.bump_epoch(session)


def test_a_process_that_falls_silent_holds_its_locks_no_longer(registry: Registry, impatient: Registry) -> None:
    def be_silent() -> None:
        time.sleep(1.0)
        bump(registry, lambda: None)  # meanwhile somebody else gets on

    with pytest.raises(Unavailable, match=AWAY):
        bump(impatient, be_silent)
    with registry.read() as session:
        assert state.epoch(session) == 1


def test_a_pool_that_is_used_up_is_said(registry: Registry) -> None:
    small = ConnectionOptions(pool=2, overflow=0, connect=0.5)
    with closing(Registry(registry.url, small)) as used, ExitStack() as stack:
        for _ in range(2):
            state.epoch(stack.enter_context(used.read()))
        with pytest.raises(Unavailable, match=BUSY), used.read() as session:
            state.epoch(session)


def test_a_server_without_a_free_connection_is_said(registry: Registry) -> None:
    role = f"few_{uuid4().hex}"
    with registry.write() as session:
        session.execute(sa.text(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1"))
    url = sa.make_url(registry.url).set(username=role).render_as_string(hide_password=False)
    with closing(Registry(url)) as scarce, scarce.read() as session:
        session.execute(sa.text("SELECT 1"))
        with pytest.raises(Unavailable, match=AWAY), scarce.read() as another:
            another.execute(sa.text("SELECT 1"))
    with registry.write() as session:
        session.execute(sa.text(f"DROP ROLE {role}"))


def test_a_server_that_refuses_connections_is_said(registry: Registry) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, and not listening
        url = sa.make_url(registry.url).set(port=bound.getsockname()[1]).render_as_string(hide_password=False)
        with closing(Registry(url)) as away, pytest.raises(Unavailable, match=AWAY), away.read() as session:
            state.epoch(session)
        with pytest.raises(Unavailable, match=AWAY):
            check_known(url)


def test_a_server_that_hangs_is_said_within_the_time_to_connect(registry: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        url = sa.make_url(registry.url).set(port=silent.getsockname()[1]).render_as_string(hide_password=False)
        with closing(Registry(url, IMPATIENT)) as hung:
            started = time.monotonic()
            with pytest.raises(Unavailable, match=AWAY), hung.read() as session:
                state.epoch(session)
            assert time.monotonic() - started < 10


def test_of_two_that_lock_crosswise_one_is_told_to_try_again(registry: Registry) -> None:
    """We lock in one order everywhere. Were we ever wrong, nobody would hang, and nobody would see a 500."""
    first_has, outcome = threading.Event(), []

    def advisory(session: sa.orm.Session, number: int) -> None:
        session.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})

    def other() -> None:
        with registry.write() as session:
            advisory(session, 2)
            first_has.set()
            advisory(session, 1)
        outcome.append("done")

    thread = threading.Thread(target=lambda: _noting(outcome, other))
    with suppress(Unavailable), registry.write() as session:
        advisory(session, 1)
        thread.start()
        assert first_has.wait(10)
        advisory(session, 2)
        outcome.append("done")
    thread.join()
    assert "done" in outcome
    assert len(outcome) == 1 or outcome.count("told") == 1


def _noting(outcome: list[str], work: Callable[[], None]) -> None:
    try:
        work()
    except Unavailable:
        outcome.append("told")


def test_rows_are_locked_no_longer_than_their_transaction(registry: Registry) -> None:
    with registry.read_one() as session:
        session.execute(sa.select(StateRow.epoch).with_for_update())
        bump(registry, lambda: None)  # a glance is over with its statement

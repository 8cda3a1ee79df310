"""A world on each dialect: every contract test runs on SQLite and on PostgreSQL.

A test's database is a copy of a migrated one: migrating takes ten times as long as copying what it makes.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.registry import state
from service.registry.engine import Registry, migrate
from tests.layouts import KINDS, anchors
from tests.servers import S3Server, fresh_database, postgres
from tests.stores import buckets
from tests.world import MakeWorld, World, opened


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """One server for the run, started when the first test asks for it."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the run, with a plain and a versioned bucket, started when the first test asks for it."""
    with buckets() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The same once more on PostgreSQL is thorough, but for tests that are about SQL or locking, or about it alone."""
    for item in items:
        repeats = item.get_closest_marker("postgres") and not _chooses_its_dialect(item)
        if repeats and item.path.parent == Path(__file__).parent and not item.get_closest_marker("sql"):
            item.add_marker(pytest.mark.thorough)


def _chooses_its_dialect(item: pytest.Item) -> bool:
    return any(mark.args[0] == "dialect" for mark in item.iter_markers("parametrize"))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows."""
    path = tmp_path_factory.mktemp("template") / "registry.db"
    migrate(f"sqlite:///{path}")
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no log beside it: one file is all of it
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The same on PostgreSQL."""
    with fresh_database(postgres_server) as url:
        migrate(url)
        yield url


@pytest.fixture
def empty_database_url(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path / 'data' / 'registry.db'}"
    else:
        with fresh_database(request.getfixturevalue("postgres_server")) as url:
            yield url


@pytest.fixture
def database_url(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database without rows."""
    if dialect == "sqlite":
        path = tmp_path / "data" / "registry.db"
        path.parent.mkdir(exist_ok=True)  # a test may have put a disk there
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgres_template")
        with fresh_database(request.getfixturevalue("postgres_server"), template=template) as url:
            yield url


@pytest.fixture
def make_world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    """A world with settings of the test's own choice. Its files need not outlive a power cut."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with ExitStack() as stack:

        def make(**groups: Any) -> World:
            return stack.enter_context(opened(tmp_path / "data", database_url, **groups))

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


@pytest.fixture
def planned(world: World) -> World:
    """One cluster that waits for a worker."""
    world.add(8)
    assert world.reconcile() == 1
    return world


@pytest.fixture
def idle(world: World) -> World:
    """Several clusters, everything trained."""
    world.add(30)
    world.settle()
    assert len(world.clusters()) >= 3
    return world


@pytest.fixture
def anchored(make_world: MakeWorld) -> World:
    """Forty samples, divided by sixteen of the first thirty-two, everything trained."""
    world = make_world(partition=KINDS["anchors"])
    world.add(40)
    world.settle()
    assert len(anchors(world)) == 16
    return world


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    registry = Registry(database_url)
    with registry.write() as session:
        state.ensure(session)
    yield registry
    registry.close()

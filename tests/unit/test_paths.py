"""A path is a path: whatever characters a folder's name has, what belongs in it is made there and nowhere else."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

import migrations
from service.artifacts import open_store
from service.artifacts.opening import parse_store_url
from service.clock import system_clock
from service.core import access
from service.core.opening import open_ledger
from service.errors import Misconfigured
from service.messaging.notifier import Notifier
from service.registry.engine import Registry, check_migrations, is_migrated, migrate
from service.settings import S3Settings, Settings

NAMES = [
    "da ta?x=1",
    "a#b",
    "50%",
    "%41%zz",
    "a:b@c",
    "ünïcode 名前",
    "s3:x://y",
    "{a}",
    "a&b;c'\"",
    "[::1",
    "-x",
    "~x",
]


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Not made yet; nothing else is beside it."""
    return tmp_path / "only" / str(request.param)


def assert_alone(folder: Path) -> None:
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_registry_is_in_its_folder(folder: Path) -> None:
    settings = Settings(data_dir=folder)
    migrate(settings.database)
    assert is_migrated(settings.database)
    check_migrations(settings.database)
    with closing(Registry(settings.database)) as registry:
        access.create_key(registry, system_clock, scopes=["read"])
        assert registry.scrub()
    assert [path.name for path in folder.iterdir()] == ["registry.db"]
    assert_alone(folder)


def test_a_bell_of_the_embedded_broker_is_in_its_folder(folder: Path) -> None:
    assert Notifier(Settings(data_dir=folder)).notify_now(urgent=True)
    assert len(list((folder / "queue").glob("*.oubli.deletions.msg"))) == 1
    assert_alone(folder)


def test_a_store_is_in_its_folder_however_that_is_named(folder: Path) -> None:
    for number, url in enumerate((str(folder), f"file://{quote(str(folder))}")):
        store = open_store(url, folder=Path("elsewhere"), s3=S3Settings())
        store.put(f"samples/{number}.png", b"x")
        assert list(store.names("samples")) == [f"samples/{n}.png" for n in range(number + 1)]
    assert len(list(folder.rglob("*.png"))) == 2
    assert_alone(folder)


def test_a_ledger_is_in_its_folder(folder: Path) -> None:
    open_ledger(str(folder), s3=S3Settings()).put("ledger/x.json", b"{}")
    assert [path.name for path in folder.rglob("*.json")] == ["x.json"]
    assert open_ledger(str(folder), s3=S3Settings(), make=False).get("ledger/x.json") == b"{}"
    assert_alone(folder)


@pytest.mark.parametrize("folder", ["da ta?x=1", "50%", "{a}"], indirect=True)
def test_a_search_is_kept_in_its_folder(folder: Path) -> None:
    optuna = pytest.importorskip("optuna")
    from service.evaluation.search import _storage

    folder.mkdir(parents=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for trials in (1, 2):  # the second goes on with the first
        storage = _storage(optuna, folder / "search.db")
        study = optuna.create_study(study_name="a", storage=storage, load_if_exists=True)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        assert len(study.trials) == trials
        storage.engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["search.db"]
    assert_alone(folder)


@pytest.mark.parametrize("folder", ["50%", "a:b@c"], indirect=True)
def test_migrations_run_from_wherever_they_are_installed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(migrations.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "__file__", str(folder / "__init__.py"))
    migrate(tmp_path / "data" / "registry.db")
    assert is_migrated(tmp_path / "data" / "registry.db")


@pytest.mark.parametrize("url", ["file:///srv/a?x=1", "file:///srv/a#b", "file://[::1/srv", "s3://[bucket"])
def test_a_url_of_which_a_part_would_be_dropped_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="store_url"):
        parse_store_url(url)

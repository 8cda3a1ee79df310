"""The data folder that a command works on: looked at before anything is made in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.printing import plain
from service.errors import Misconfigured, Unavailable
from service.settings import Settings, load_settings

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data folder [default: OUBLI_DATA_DIR, or ./oubli-data].")
]


def settings_of(data: Path | None, **overrides: object) -> Settings:
    """The settings, with this data folder. Raises Misconfigured, also if it is no folder."""
    settings = load_settings(data_dir=data, **overrides)
    folder = settings.data_dir
    try:
        is_other = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise Misconfigured(f"The data folder {plain(folder)} cannot be used: {error.strerror}.") from None
    if is_other:
        raise Misconfigured(f"{plain(folder)} is a file, and not a data folder. Name another with --data.")
    return settings


def require_file(settings: Settings) -> None:
    """Raise Misconfigured where SQLite would make an empty database: a command that only looks makes nothing.

    Raises Unavailable if the whole folder is missing: a disk may not be mounted yet.
    """
    if settings.database_url is not None or (settings.data_dir / "registry.db").is_file():
        return
    if not settings.data_dir.is_dir():
        raise Unavailable(
            f"The registry's database does not answer: there is no folder {plain(settings.data_dir)}. Name the right "
            "one: --data, or OUBLI_DATA_DIR."
        )
    raise Misconfigured(
        f"There is no registry in {plain(settings.data_dir)}. Is the data folder right? If so, run `oubli migrate`."
    )


def require_registry(settings: Settings) -> None:
    """Raise Misconfigured unless there is a registry of this release's schema; Unavailable if it does not answer."""
    require_file(settings)
    from service.registry.engine import is_migrated  # late, with SQLAlchemy: no client command waits for it

    if not is_migrated(settings.database):
        raise Misconfigured(
            "There is no registry of this release here. Is the data folder right? One of an earlier release is "
            "brought up to date by `oubli migrate`."
        )

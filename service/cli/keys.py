"""`oubli keys`: make, list, rotate and revoke API keys, in the registry itself: no key is needed for it.

A secret is printed once, alone on standard output, so that `KEY=$(oubli keys create …)` works; what is said beside it
goes to standard error. With `--json` both are one document.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service.cli.folder import DataOption, require_registry, settings_of
from service.cli.printing import JsonOption, plain, print_json, show
from service.clock import system_clock
from service.errors import Invalid
from service.registry.records import SCOPES

if TYPE_CHECKING:
    from service.registry.engine import Registry
    from service.registry.records import ApiKey

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

ExpiresOption = Annotated[str | None, typer.Option("--expires-in", help="Such as 90d, 12h or 30m; default: never.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, or the first eight characters or more.")]

keys = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)


def _open(data: Path | None) -> tuple[Registry, Path]:
    """The registry, and where the admin key is kept."""
    chosen = settings_of(data)
    require_registry(chosen)
    from service.registry.engine import Registry  # late, with SQLAlchemy: no client command waits for it

    return Registry(chosen.database), chosen.data_dir / "admin-key"


def span(text: str) -> timedelta:
    """A span of time such as `90d`, `12h`, `30m`, `10s` or `0`. Raises Invalid."""
    found = re.fullmatch(r"(\d{1,9})([smhd])|0", text.strip())
    try:
        return timedelta(**{UNITS[found[2] or "s"]: int(found[1] or 0)}) if found is not None else _refuse(text)
    except OverflowError:
        return _refuse(text)


def _refuse(text: str) -> timedelta:
    raise Invalid(f"{text!r} is no span of time such as 90d, 12h, 30m or 10s.")


def _end(expires_in: str | None) -> datetime | None:
    try:
        return system_clock() + span(expires_in) if expires_in is not None else None
    except OverflowError:
        raise Invalid(f"--expires-in {expires_in} is too long.") from None


@keys.command("create")
def create_key(
    scopes: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCOPES)}.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_in: ExpiresOption = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make a key and print its secret, once."""
    from service.core import access

    registry, _ = _open(data)
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key, secret = access.create_key(registry, system_clock, scopes=wanted, name=name, expires_at=_end(expires_in))
    if as_json:
        print_json({**_as_json(key), "secret": secret})
        return
    typer.echo(f"{key.id}  {', '.join(key.scopes)}{_until(key)}", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys(as_json: JsonOption = False, data: DataOption = None) -> None:
    """List keys; secrets are not kept."""
    from service.core import access

    registry, _ = _open(data)
    found, now = access.list_keys(registry), system_clock()
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    table = Table("id", "name", "scopes", "made", "last used", "expires", "state")
    for key in found:
        times = (_day(time) for time in (key.created_at, key.last_used_at, key.expires_at))
        table.add_row(key.id, plain(key.name), ", ".join(key.scopes), *times, state_of(key, now))
    show(table)


@keys.command("rotate")
def rotate_key(
    key: KeyArgument,
    overlap: Annotated[str, typer.Option(help="How long the old key is valid beside the new one.")] = "24h",
    expires_in: ExpiresOption = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Put a new key in the place of another, with its name and scopes; print the new secret, once."""
    from service.core import access

    registry, path = _open(data)
    beside = span(overlap)
    if beside > access.LONGEST_OVERLAP:
        raise Invalid(f"--overlap: {access.LONGEST_OVERLAP.days} days at most.")
    old, new, secret = access.rotate_key(
        registry, system_clock, key, overlap=beside, expires_at=_end(expires_in), kept_in=path
    )
    if as_json:
        print_json({**_as_json(new), "secret": secret, "replaces": _as_json(old)})
        return
    typer.echo(f"{new.id}  {', '.join(new.scopes)}{_until(new)}", err=True)
    typer.echo(f"{old.id} is valid until {_day(old.expires_at)} UTC.", err=True)
    typer.echo(secret)


@keys.command("revoke")
def revoke_key(key: KeyArgument, data: DataOption = None) -> None:
    """Refuse a key from now on."""
    from service.core import access

    registry, _ = _open(data)
    revoked = access.revoke_key(registry, system_clock, key)
    typer.echo(f"Revoked {revoked.id}.")


def state_of(key: ApiKey, now: datetime) -> str:
    """In words."""
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.has_expired(now):
        return "expired"
    return f"replaced by {key.replaced_by}" if key.replaced_by is not None else "valid"


def _until(key: ApiKey) -> str:
    return f"  until {_day(key.expires_at)} UTC" if key.expires_at is not None else ""


def _day(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time is not None else ""


def _as_json(key: ApiKey) -> dict[str, object]:
    times = {
        name: time.isoformat() if time is not None else None
        for name, time in (
            ("created_at", key.created_at),
            ("expires_at", key.expires_at),
            ("last_used_at", key.last_used_at),
            ("revoked_at", key.revoked_at),
        )
    }
    about = {"id": key.id, "name": key.name, "scopes": list(key.scopes)}
    return {**about, **times, "replaced_by": key.replaced_by}

"""`oubli restore-check`: after a backup was restored and before anything serves it, nothing erased may be in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.desk import console
from service.cli.roles import DataOption
from service.errors import Misconfigured
from service.loading import loading
from service.settings import load_settings

if TYPE_CHECKING:
    from service.core.restore import Check


def restore_check(
    ledger: Annotated[
        str | None, typer.Argument(help="Another ledger to replay beside that of the settings: its folder.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Erase again what has come back.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Accept a ledger without any tombstones.")] = False,
    data: DataOption = None,
) -> None:
    """Replay the erasure ledger against a restored backup; exit 1 if anything erased is in it."""
    with loading():  # late, with torch: no other command of `oubli` waits for it
        from service.core import restore
        from service.core.context import open_context, open_ledger
        from service.core.environment import configure
        from service.registry.engine import is_migrated

    settings = load_settings(data_dir=data)
    if not is_migrated(settings.database):
        raise Misconfigured(
            "There is no registry of this release here. Is the data folder right? One of an earlier release is "
            "brought up to date by `oubli migrate`."
        )
    other = open_ledger(ledger, s3=settings.s3, make=False) if ledger is not None else None
    configure(settings, threads=settings.training.threads)
    context = open_context(settings, read_only=True)
    try:
        found = restore.check(context, other)
        if not (found.reading.tombstones or found.reading.illegible or empty):
            raise Misconfigured(
                "The erasure ledger is empty. If nothing was ever erased, say so with --empty; else name the right "
                "ledger (OUBLI_LEDGER_URL, or as an argument)."
            )
        _report(found)
        if apply and not found.is_clean:
            restore.apply(context, found)
            found = restore.check(context, other)
            console.print("Erased again." if found.is_clean else "What could be erased again is; this is left:")
            _report(found)
        elif running := restore.heard_from(context):
            console.print(f"Note: the service runs on this registry ({', '.join(running)}).")
    finally:
        context.registry.close()
    if not found.is_clean:
        raise typer.Exit(1)


def _report(found: Check) -> None:
    for line in found.lines():
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"{len(found.reading.tombstones)} tombstones, {len(found.held)} samples have come back.")

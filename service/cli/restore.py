"""`oubli restore-check`: after a backup was restored and before anything serves it, nothing erased may be in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.folder import DataOption, require_registry, settings_of
from service.cli.printing import JsonOption, plain, print_json, say
from service.errors import Misconfigured
from service.loading import loading

if TYPE_CHECKING:
    from service.artifacts import Store
    from service.core.context import Context
    from service.core.restore import Check


def restore_check(
    ledger: Annotated[
        str | None, typer.Argument(help="Another ledger to replay beside that of the settings: its folder.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Erase again what has come back.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Accept a ledger without any tombstones.")] = False,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Replay the erasure ledger against a restored backup; exit 1 if anything erased is in it."""
    settings = settings_of(data)
    require_registry(settings)
    with loading():  # late, with torch: no other command of `oubli` waits for it
        from service.core import restore
        from service.core.environment import configure
        from service.core.opening import open_context, open_ledger

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
        again = apply and not found.is_clean
        if again:
            found = _apply(context, other, found, aloud=not as_json)
        running = [] if again else restore.heard_from(context)
    finally:
        context.registry.close()
    _tell(found, again, running, as_json)
    if not found.is_clean:
        raise typer.Exit(1)


def _apply(context: Context, other: Store | None, found: Check, *, aloud: bool) -> Check:
    """What is left once it has been erased again."""
    from service.core import restore

    if aloud:
        _report(found)
    restore.apply(context, found)
    return restore.check(context, other)


def _tell(found: Check, again: bool, running: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "clean": found.is_clean,
                "tombstones": len(found.reading.tombstones),
                "come_back": sorted(found.returned),
                "findings": list(found.lines()),
                "erased_again": again,
                "running": list(running),
            }
        )
        return
    if again:
        say("Erased again." if found.is_clean else "What could be erased again is; this is left:")
    _report(found)
    if running:
        say(f"Note: the service runs on this registry ({', '.join(map(plain, running))}).")


def _report(found: Check) -> None:
    for line in found.lines():
        say(plain(line))
    say(f"{len(found.reading.tombstones)} tombstones, {len(found.returned)} samples have come back.")

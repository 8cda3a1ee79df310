"""`oubli`: one command for every role a process can have, and for talking to a running service."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from service import __version__
from service.cli import (
    auditor,
    centroids,
    client_commands,
    demo,
    erase,
    evaluate,
    heartbeat,
    ingest,
    keys,
    predict,
    quality,
    restore,
    roles,
)
from service.cli.failures import words_of
from service.cli.printing import plain

app = typer.Typer(
    name="oubli",
    help="Unlearning as a service: a classifier that can take any contribution back, exactly.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # in a help text brackets are brackets: "[default: ...]" is to be read
    pretty_exceptions_enable=False,
)


def _add(command: Callable[..., None], name: str | None = None) -> None:
    """With the first line of its help whole in the list of commands, where it would be cut."""
    app.command(name, short_help=(command.__doc__ or "").partition("\n")[0])(command)


_add(roles.serve)
_add(roles.api)
_add(roles.worker)
_add(roles.beat)
_add(heartbeat.heartbeat)
_add(roles.migrate)
app.add_typer(keys.keys, name="keys")
_add(roles.openapi)
_add(roles.settings)
_add(ingest.ingest)
_add(predict.predict)
_add(erase.erase)
_add(client_commands.retry)
_add(client_commands.status)
_add(quality.quality)
_add(auditor.audit_command, "audit")
_add(restore.restore_check, "restore-check")
_add(centroids.centroids)
_add(evaluate.evaluate)
_add(demo.demo)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"oubli {__version__}")
        raise typer.Exit


@app.callback()
def oubli(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None:
    """Unlearning as a service: a classifier that can take any contribution back, exactly."""


def main() -> None:
    """Run; a failure that has words for the caller is printed as those words."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a label is no reason to fail, whatever the terminal can show
    try:
        app()
    except Exception as error:
        said = words_of(error)
        if said is None:
            raise
        words, code = said
        print("oubli: " + "\n".join(plain(line) for line in words.split("\n")), file=sys.stderr)
        sys.exit(code)

"""`oubli ingest`: contribute a folder of class folders, as people have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from models.class_folders import Entry, FolderContents, Kind, find
from service.cli.client import UrlOption, client_of
from service.cli.concurrency import InFlightOption, chunks, in_flight
from service.cli.contributing import Contributor, IngestCounts
from service.cli.folder import DataOption
from service.cli.printing import JsonOption, plain, print_json, progress_bar, say
from service.errors import Invalid, ServiceError
from service.registry.records import Role

GiveUp = Callable[[], None]
NAMED = 20  # entries of a kind that are named on a terminal


def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder of class folders: FOLDER/<label>/<image>.")],
    owner: Annotated[str, typer.Option(help="Your reference for the person whose images these are.")],
    role: Annotated[
        Role,
        typer.Option(
            help="`core`: the adapter is trained on these pictures as well, and erasing one costs more. `evaluation`: "
            "never learned from; `oubli quality` measures with these pictures."
        ),
    ] = "training",
    most: InFlightOption = 2,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Contribute a folder of class folders. Run again after an interruption: nothing is contributed twice.

    Every picture is sent, whatever its suffix is called, and the service knows whether it has it. What systems leave
    behind (@eaDir, ._x.jpg, Thumbs.db, ...) is left out. Whatever was left out or refused is named. Exit status 1 if
    that was something you would want: a picture that was refused, a file that cannot be read, a link that leads
    nowhere, a camera's raw file.

    Images arrive in the order of their names within a request of 64; which of two requests under way arrives first
    is not promised. With `--in-flight 1` the order is that of all names.
    """
    if not folder.is_dir():
        raise Invalid(f"{plain(folder)} is not a folder.")
    found = find(folder)
    if not found.pictures:
        _name_left_out(found, as_json)
        raise Invalid(f"{plain(folder)} has no class folders with images in them: FOLDER/<label>/<image>.")
    stopped: ServiceError | None = None
    with client_of(url, data) as client, progress_bar(apart=as_json) as bar:
        contributor = Contributor(client, owner, role)
        try:
            _send_all(contributor, found, bar, f"Ingesting {plain(folder.name)}", most, client.give_up)
        except ServiceError as error:
            stopped = error
    counts = contributor.counts
    if as_json:
        print_json(_document(counts, found, stopped))
    else:
        _tell(counts, found)
    if stopped is not None:
        missing = len(found.pictures) - counts.answered
        raise Invalid(f"Stopped, with {missing} files to go: {stopped.detail} Run it again to go on.")
    if counts.refused or found.missed:
        raise typer.Exit(1)


def _send_all(
    contributor: Contributor, found: FolderContents, bar: Progress, title: str, most: int, give_up: GiveUp
) -> None:
    task = bar.add_task(title, total=len(found.pictures))
    parts = chunks(found.pictures, size=lambda picture: picture.size)
    for count in in_flight(contributor.send, parts, most=most, give_up=give_up):
        bar.advance(task, count)


def _tell(counts: IngestCounts, found: FolderContents) -> None:
    say(f"{counts.contributed} contributed, {counts.held} held already, {len(counts.refused)} refused.")
    for path, reason in counts.refused:
        say(f"  {plain(path)}: {plain(reason)}", style="red")
    _name_left_out(found)


def _name_left_out(found: FolderContents, quietly: bool = False) -> None:
    """Every kind with its number, and its first entries by name."""
    for kind in () if quietly else Kind:
        entries = [entry for entry in found.left_out if entry.kind is kind]
        if entries:
            say(f"{len(entries)} left out, {kind.value}:", style="red" if entries[0] in found.missed else None)
            _name(entries)
    for path, label in () if quietly else found.guessed.items():
        say(f"  {plain(path)} is not UTF-8, and was read as Windows-1252: {plain(label)}")


def _name(entries: Sequence[Entry]) -> None:
    for entry in entries[:NAMED]:
        say(f"  {plain(entry.path)}")
    if len(entries) > NAMED:
        say(f"  ... and {len(entries) - NAMED} more; --json names all")


def _document(counts: IngestCounts, found: FolderContents, stopped: ServiceError | None) -> dict[str, Any]:
    return {
        "contributed": counts.contributed,
        "held": counts.held,
        "refused": [{"file": str(path), "reason": reason} for path, reason in counts.refused],
        "left_out": [{"file": str(entry.path), "kind": entry.kind} for entry in found.left_out],
        "labels_guessed": [{"folder": str(path), "label": label} for path, label in found.guessed.items()],
        "stopped": stopped.detail if stopped is not None else None,
    }

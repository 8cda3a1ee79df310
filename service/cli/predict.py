"""`oubli predict`: classify files; one that cannot be is named, and the others are answered."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from service.cli.answers import JsonAnswer, Refused, items
from service.cli.client import Client, UrlOption, client_of
from service.cli.concurrency import InFlightOption, chunks, in_flight
from service.cli.contributing import MOST_BYTES
from service.cli.folder import DataOption
from service.cli.printing import JsonOption, plain, print_json, say, show

OF_A_FILE = {400, 413, 415, 422, 500}  # what may be wrong with one file; other statuses are of the service as a whole
FileOutcome = dict[str, Any] | str  # a prediction, or why there is none


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    most: InFlightOption = 4,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Classify images. A file that cannot be is named, and the others are answered; exit status 1 then."""
    found: list[tuple[Path, FileOutcome]] = []
    stopped: Refused | None = None
    with client_of(url, data) as client:
        ask = partial(_ask, client)
        try:
            for outcomes in in_flight(ask, chunks(files, size=_size), most=most, give_up=client.give_up):
                found += outcomes
        except Refused as refused:
            stopped = refused
    if stopped is None or found:
        _print(found, as_json)
    if stopped is not None:
        raise stopped
    if any(isinstance(outcome, str) for _, outcome in found):
        raise typer.Exit(1)


def _print(found: Sequence[tuple[Path, FileOutcome]], as_json: bool) -> None:
    answered = [(path, outcome) for path, outcome in found if not isinstance(outcome, str)]
    refused = [(path, outcome) for path, outcome in found if isinstance(outcome, str)]
    if as_json:
        predictions = [{"file": str(path), **answer} for path, answer in answered]
        print_json(
            {"predictions": predictions, "refused": [{"file": str(path), "reason": reason} for path, reason in refused]}
        )
        return
    if answered:
        table = Table("file", "label", "score", "cluster", "tier", "")
        for path, answer in answered:
            notes = ["degraded"] * bool(answer.get("degraded")) + ["quick head"] * (answer.get("head") == "quick")
            where = [plain(answer.get(name) or "") for name in ("cluster", "tier")]
            table.add_row(plain(path), plain(answer["label"]), f"{answer['score']:.3f}", *where, ", ".join(notes))
        show(table)
    for path, reason in refused:
        say(f"{plain(path)}: {plain(reason)}", style="red")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # said when it is read
        return 0


def _ask(client: Client, paths: Sequence[Path]) -> list[tuple[Path, FileOutcome]]:
    """An outcome each, in order. Raises Refused if it is wrong with all."""
    read = [_read(path) for path in paths]
    images = [data for data in read if isinstance(data, bytes)]
    answers = iter(_classify(client, images) if images else [])
    return [(path, next(answers) if isinstance(data, bytes) else data) for path, data in zip(paths, read, strict=True)]


def _read(path: Path) -> bytes | str:
    """The file, or why it cannot be read."""
    try:
        if path.is_dir():
            return "is a folder."
        if path.stat().st_size > MOST_BYTES:
            return f"is larger than {MOST_BYTES:,} bytes."
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or os.strerror(error.errno or 0)}."


def _classify(client: Client, images: Sequence[bytes]) -> list[FileOutcome]:
    """The service answers all images of a request or none: those that it names are taken out, the rest sent again."""
    try:
        return list(_post(client, images))
    except Refused as refused:
        bad = _named(refused, len(images))
        if len(bad) == len(images) and refused.answered not in OF_A_FILE:
            raise
        if not bad:
            if refused.answered not in OF_A_FILE:
                raise
            if len(images) == 1:
                return [refused.detail]
            return [outcome for image in images for outcome in _classify(client, [image])]
    good = [image for place, image in enumerate(images) if place not in bad]
    rest = iter(_classify(client, good) if good else [])
    return [bad[place] if place in bad else next(rest) for place in range(len(images))]


def _named(refused: Refused, count: int) -> dict[int, str]:
    """Images that a problem names, by their places: `image[3]`."""
    found = {}
    for name, detail in refused.fields.items():
        match = re.fullmatch(r"image\[(\d{1,4})\]", name)
        if match and int(match[1]) < count:
            found[int(match[1])] = detail
    return found


def _post(client: Client, images: Sequence[bytes]) -> list[JsonAnswer]:
    parts = [("image", (f"{place}", image)) for place, image in enumerate(images)]
    return items(client.request("POST", "/predict", files=parts), "predictions", len(images))

"""The commands that talk to a running service: ingest, predict, erase, status."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.cli.client import Client, connect
from service.cli.flight import in_flight
from service.cli.roles import DataOption
from service.core.text import normalised
from service.errors import Invalid
from service.settings import load_settings

console = Console()
UrlOption = Annotated[str | None, typer.Option("--url", help="Where the service is [default: OUBLI_URL or local].")]
InFlightOption = Annotated[int, typer.Option("--in-flight", help="Requests under way at once.", min=1, max=32)]
Item = TypeVar("Item")

CHUNK = 64  # images in a request
CHUNK_BYTES = 100_000_000  # ... or fewer, if they are large
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def progress_bar() -> Progress:
    """The one look of our progress bars."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _client(url: str | None, data: Path | None) -> Client:
    return connect(url, load_settings(data_dir=data).data_dir)


@dataclass(frozen=True)
class Picture:
    """A file to be contributed."""

    path: Path
    label: str


def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder of class folders: FOLDER/<label>/<image>.")],
    owner: Annotated[str, typer.Option(help="Your reference for the person whose images these are.")],
    most: InFlightOption = 2,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Contribute a folder of class folders. Run again after an interruption: nothing is contributed twice.

    Images arrive in the order of their names within a request of 64; which of two requests under way arrives first
    is not promised. With `--in-flight 1` the order is that of all names.
    """
    client = _client(url, data)
    pictures = find_pictures(folder)
    held = Counter((item["digest"], item["label"]) for item in client.pages("/samples", owner=owner))
    failed: list[tuple[Path, str]] = []
    skipped = 0

    def fresh(bar: Progress, task: TaskID) -> Iterator[list[Picture]]:
        """Looked at while others are under way."""
        nonlocal skipped
        for chunk in chunks(pictures, size=lambda picture: picture.path.stat().st_size):
            new = [picture for picture in chunk if not _is_held(picture, held)]
            skipped += len(chunk) - len(new)
            bar.advance(task, len(chunk) - len(new))
            yield new

    with progress_bar() as bar:
        task = bar.add_task(f"Ingesting {folder.name}", total=len(pictures))
        contribute = partial(_contribute, client, owner)
        for count, refused in in_flight(contribute, fresh(bar, task), most=most, give_up=client.give_up):
            failed += refused
            bar.advance(task, count)
    new = len(pictures) - skipped - len(failed)
    console.print(f"{new} contributed, {skipped} held already, {len(failed)} refused.")
    for path, reason in failed:
        console.print(f"  {path}: {reason}", style="red")
    if failed:
        raise typer.Exit(1)


def chunks(items: Sequence[Item], *, size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Consecutive items, at most CHUNK and CHUNK_BYTES together; a larger item goes alone."""
    chunk: list[Item] = []
    weight = 0
    for item in items:
        if chunk and (len(chunk) == CHUNK or weight + size(item) > CHUNK_BYTES):
            yield chunk
            chunk, weight = [], 0
        chunk.append(item)
        weight += size(item)
    if chunk:
        yield chunk


def find_pictures(folder: Path) -> list[Picture]:
    """Image files below class folders, in the order of their names. Raises Invalid if there are none."""
    if not folder.is_dir():
        raise Invalid(f"{folder} is not a folder.")
    pictures = [
        Picture(path, normalised(label.name))
        for label in sorted(folder.iterdir())
        if label.is_dir()
        for path in sorted(label.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not pictures:
        raise Invalid(f"{folder} has no class folders with images in them: FOLDER/<label>/<image>.")
    return pictures


def _is_held(picture: Picture, held: Counter[tuple[str, str]]) -> bool:
    """Whether the service has this very picture of this owner already; each held copy counts once."""
    from models.image import ImageError, decode, pixel_digest  # late, with NumPy: other commands decode nothing

    try:
        digest = pixel_digest(decode(picture.path.read_bytes(), load_settings().intake.limits()))
    except ImageError:
        return False  # the service says what is wrong with it
    place = (digest, picture.label)
    held[place] -= 1
    return held[place] >= 0


def _contribute(client: Client, owner: str, pictures: Sequence[Picture]) -> tuple[int, list[tuple[Path, str]]]:
    """How many were sent, and which of them were refused and why."""
    if not pictures:
        return 0, []
    files = [("images", (f"{i}{p.path.suffix}", p.path.read_bytes())) for i, p in enumerate(pictures)]
    metadata = json.dumps([{"label": picture.label, "owner": owner} for picture in pictures])
    answer = client.request("POST", "/samples/batch", files=files, data={"metadata": metadata})
    items = zip(pictures, answer["items"], strict=True)
    refused = [(picture.path, item["problem"]["detail"]) for picture, item in items if item["status"] != 201]
    return len(pictures), refused


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False)],
    most: InFlightOption = 4,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Classify images."""
    client = _client(url, data)
    table = Table("file", "label", "score", "cluster", "tier", "")

    def ask(chunk: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
        images = [("image", (path.name, path.read_bytes())) for path in chunk]
        answers = client.request("POST", "/predict", files=images)["predictions"]
        return list(zip(chunk, answers, strict=True))

    asked = chunks(files, size=lambda path: path.stat().st_size)
    for answered in in_flight(ask, asked, most=most, give_up=client.give_up):
        for path, answer in answered:
            note = "degraded" if answer["degraded"] else ""
            cluster = (answer["cluster"] or "")[-12:]
            table.add_row(str(path), answer["label"], f"{answer['score']:.3f}", cluster, answer["tier"], note)
    console.print(table)


def erase(
    ids: Annotated[list[str] | None, typer.Argument(help="Sample ids.")] = None,
    owner: Annotated[str | None, typer.Option(help="Everything of this owner.")] = None,
    quote: Annotated[bool, typer.Option(help="Only say what it would cost.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is completed.")] = True,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Take samples back out of the model."""
    if bool(ids) == bool(owner):
        raise Invalid("Give either sample ids or --owner.")
    client = _client(url, data)
    subject: dict[str, Any] = {"owner": owner} if owner else {"samples": ids}
    if quote:
        console.print_json(data=client.request("POST", "/erasures", json={**subject, "validate_only": True}))
        return
    erasure = client.request("POST", "/erasures", json=subject)
    console.print(f"Erasure {erasure['id']}: {erasure['samples']} samples; no prompt that has seen them is in use.")
    if wait:
        erasure = wait_for(client, erasure["id"])
        console.print(f"Completed: {len(erasure['clusters'])} clusters serve without them; their bytes are gone.")


def wait_for(client: Client, erasure_id: str) -> dict[str, Any]:
    """Follow an erasure to its end. Raises nothing on failed states: those are tried again."""
    with progress_bar() as bar:
        task = bar.add_task("Retraining", total=None)
        while True:
            erasure: dict[str, Any] = client.request("GET", f"/erasures/{erasure_id}")
            states = [cluster["state"] for cluster in erasure["clusters"]]
            done = sum(state in ("completed", "removed") for state in states)
            bar.update(task, total=len(states), completed=done, description=f"Erasure: {erasure['state']}")
            if erasure["state"] == "completed":
                return erasure
            time.sleep(0.3)


def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[CLUSTER]...", help="Default: all that failed.")] = None,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Try failed trainings again, now."""
    client = _client(url, data)
    chosen = ids or [cluster["id"] for cluster in client.pages("/clusters") if cluster["state"] == "failed"]
    for cluster in chosen:
        client.request("POST", f"/clusters/{cluster}/retry")
        console.print(f"Cluster {cluster} is tried again.")
    if not chosen:
        console.print("No cluster has failed.")


def status(url: UrlOption = None, data: DataOption = None) -> None:
    """The service at a glance."""
    answer = _client(url, data).request("GET", "/status")
    table = Table("", "", show_header=False)
    table.add_row("samples", f"{answer['samples']:,} of {answer['owners']:,} owners")
    table.add_row("clusters", _counts(answer["clusters"]))
    table.add_row("erasures", _counts(answer["erasures"]))
    alive = sum(worker["alive"] for worker in answer["workers"])
    table.add_row("workers", f"{alive} alive of {len(answer['workers'])}")
    for worker in answer["workers"]:
        table.add_row("", _worker(worker))
    closed_form = answer["closed_form"]
    known = f"{closed_form['samples']:,} samples, {closed_form['digest'][:12]}" if closed_form else "off, or starting"
    table.add_row("closed form", known)
    table.add_row("backbone", f"{answer['backbone']['name']} on {answer['device']}")
    console.print(table)


def _worker(worker: dict[str, Any]) -> str:
    heard, claimed = (worker[name] or "never" for name in ("heard_at", "claimed_at"))
    state = "" if worker["alive"] else "SILENT, "
    listens = ", ".join(worker["queues"])
    return f"{state}{worker['name']}: {worker['device']}, {listens}; last bell {heard}, last training {claimed}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"

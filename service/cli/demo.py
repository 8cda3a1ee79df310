"""`oubli demo`: the whole story on embedded defaults, over HTTP, with real handwritten digits.

People contribute digits, a model learns from them, one of them asks to be forgotten, and the service shows what that
took. The digits are scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits" test set (1,797 images
of 8 x 8 pixels), which every install has.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.cli.client import Client
from service.cli.concurrency import CHUNK
from service.cli.erase import wait_for
from service.cli.printing import console, progress_bar, say, show
from service.errors import Misconfigured

if TYPE_CHECKING:
    from service.cli.digits import Digit

PEOPLE = ("ada", "bela", "cyd", "dora", "emil", "faye", "gus", "ivo", "june")
FORGOTTEN = "hana"  # the tenth
READY_SECONDS = 120.0


# Small clusters, so that ten people's digits make a dozen of them, and no mirrored digits; the rest is as shipped.
SETTINGS = {"OUBLI_PARTITION__CAP": "200", "OUBLI_PARTITION__MIN": "40", "OUBLI_TRAINING__FLIP": "false"}


def demo(
    exit_after: Annotated[bool, typer.Option("--exit", help="End after the story.")] = False,
    port: Annotated[int, typer.Option(help="Port of the API; another if it is taken.")] = 8000,
) -> None:
    """Play the whole story with real handwritten digits, then keep serving until Ctrl-C."""
    with running_service(port, SETTINGS) as (client, url, folder):
        _tell(client)
        # What is no terminal may be kept.
        key = (client.key or "") if console.is_terminal else f"in {folder / 'admin-key'}"
        console.print(
            Text.assemble("\nThe admin's desk: ", (f"{url}/docs", "bold"), "   key: ", (key, "dim")), soft_wrap=True
        )
        if exit_after:
            return
        say("Serving until Ctrl-C.")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            say("Stopping.")


def _free_port(wanted: int) -> int:
    for candidate in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Misconfigured("There is no free port.")


@contextmanager
def running_service(port: int, settings: Mapping[str, str] | None = None) -> Iterator[tuple[Client, str, Path]]:
    """An embedded service in a throw-away folder: a client with its admin key, its address, the folder.

    port  preferred; another if it is taken, any if 0.
    """
    folder = Path(tempfile.mkdtemp(prefix="oubli-demo-"))
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service.cli", "serve", "--data", str(folder), "--port", str(port)]
    # Of its own session: Ctrl-C ends the story here first, and the service in order.
    environment = {**os.environ, "OUBLI_LOG_LEVEL": "WARNING", **(settings or {})}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with console.status("Starting API, worker and timer (`oubli serve`) ..."):
            _wait(process, url)
        with Client(url, (folder / "admin-key").read_text().strip()) as client:
            yield client, url, folder
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with Client(url, None) as client:
        while time.monotonic() < deadline and process.poll() is None:
            if client.is_ready():
                return
            time.sleep(0.2)
    raise Misconfigured("The embedded service did not start; its messages are above.")


def _tell(client: Client) -> None:
    from service.cli.digits import digits  # late, with NumPy and scikit-learn: no other command waits for them

    contributed, held_out = digits(PEOPLE, FORGOTTEN)
    started = time.monotonic()
    _contribute(client, contributed)
    at_once = _accuracy(client, held_out, "Predicting at once, before anything is trained")
    _train(client)
    trained = time.monotonic() - started
    before = _serving(client)
    known = _accuracy(client, held_out, "Predicting held-out digits")

    share = [digit for digit in contributed if digit.owner == FORGOTTEN]
    quote = client.request("POST", "/erasures", json={"owner": FORGOTTEN, "validate_only": True})
    console.print(
        Panel(
            f"{FORGOTTEN} gave {len(share)} of {len(contributed)} digits; {len(quote['clusters'])} of {len(before)} "
            f"prompts have seen some of them.\n{FORGOTTEN} asks to be forgotten: DELETE /owners/{FORGOTTEN}",
            title="The right to erasure",
        )
    )
    asked = time.monotonic()
    erasure = client.request("DELETE", f"/owners/{FORGOTTEN}")
    stopped = time.monotonic() - asked
    missing = _accuracy(client, held_out, "Predicting, use has stopped")
    wait_for(client, erasure["id"])
    completed = time.monotonic() - asked
    wait_for(client, erasure["id"], restored=True)
    retrained = time.monotonic() - asked
    after = _serving(client)
    forgotten = _accuracy(client, held_out, "Predicting after it")

    changed = [cluster for cluster in after if cluster["prompt"]["digest"] not in _digests(before)]
    work = sum(cluster["prompt"]["sample_epochs"] for cluster in changed)
    everything = sum(cluster["prompt"]["sample_epochs"] for cluster in after)
    table = Table(title="What it took", show_header=False)
    table.add_row("contributing, and training all prompts", f"{trained:.1f} s, {len(before)} prompts")
    table.add_row("use of her digits stopped after", f"{stopped * 1000:.0f} ms, with the answer itself", style="bold")
    table.add_row("nothing that knows her digits existed after", f"{completed:.1f} s")
    table.add_row("every prompt served again after", f"{retrained:.1f} s, predictions going on meanwhile")
    table.add_row("prompts retrained", f"{len(changed)} of {len(after)}; all others byte for byte as before")
    table.add_row("sample-epochs", f"{work:,} instead of {everything:,} ({work / max(1, everything):.0%})")
    table.add_row("accuracy before any prompt was trained", f"{at_once:.1%}")
    table.add_row("accuracy before, during, after", f"{known:.1%} → {missing:.1%} → {forgotten:.1%}")
    table.add_row("her samples still on record", str(len(list(client.pages("/samples", owner=FORGOTTEN)))))
    show(table)


def _contribute(client: Client, contributed: Sequence[Digit]) -> None:
    with progress_bar() as bar:
        task = bar.add_task(f"{len(PEOPLE) + 1} people contribute", total=len(contributed))
        for chunk in _chunks(contributed):
            metadata = json.dumps([{"label": digit.label, "owner": digit.owner} for digit in chunk])
            files = [("images", (f"{i}.png", digit.png)) for i, digit in enumerate(chunk)]
            client.request("POST", "/samples/batch", files=files, data={"metadata": metadata})
            bar.advance(task, len(chunk))


def _train(client: Client) -> None:
    with progress_bar() as bar:
        task = bar.add_task("The worker trains prompts", total=None)
        while True:
            clusters = list(client.pages("/clusters"))
            trained = [c for c in clusters if c["prompt"] and c["prompt"]["members"] == c["samples"]]
            bar.update(task, total=len(clusters), completed=len(trained))
            if clusters and len(trained) == len(clusters) and _is_idle(client):
                return
            time.sleep(0.5)


def _is_idle(client: Client) -> bool:
    states = client.request("GET", "/status")["clusters"]
    return set(states) == {"serving"}


def _accuracy(client: Client, held_out: Sequence[Digit], title: str) -> float:
    right = 0
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(held_out))
        for chunk in _chunks(held_out):
            files = [("image", ("digit.png", digit.png)) for digit in chunk]
            answers = client.request("POST", "/predict", files=files)["predictions"]
            pairs = zip(chunk, answers, strict=True)
            right += sum(answer["label"] == digit.label for digit, answer in pairs)
            bar.advance(task, len(chunk))
    return right / len(held_out)


def _serving(client: Client) -> list[dict[str, Any]]:
    return [cluster for cluster in client.pages("/clusters") if cluster["prompt"] is not None]


def _digests(clusters: Sequence[dict[str, Any]]) -> set[str]:
    return {cluster["prompt"]["digest"] for cluster in clusters}


def _chunks(items: Sequence[Digit]) -> Iterator[Sequence[Digit]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]

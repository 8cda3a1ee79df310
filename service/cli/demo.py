"""`oubli demo`: the whole story on embedded defaults, over HTTP, with real handwritten digits, and its proof.

People contribute digits, a model learns from them, one of them asks to be forgotten, and the service shows what that
took. Then a second service, which never sees that person's digits, is given all the others in the same order: both must
have learned the same, byte for byte. The digits are scikit-learn's copy of the UCI "Optical Recognition of Handwritten
Digits" test set (1,797 images of 8 x 8 pixels), which every install has.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.cli.client import Client
from service.cli.demo_proof import compare, learned_by
from service.cli.demo_steps import accuracy, contribute, prompt_digests, served_clusters, wait_until_trained
from service.cli.erase import wait_for
from service.cli.printing import console, say, show
from service.errors import Misconfigured

if TYPE_CHECKING:
    from service.cli.digits import Digit

PEOPLE = ("ada", "bela", "cyd", "dora", "emil", "faye", "gus", "ivo", "june")
FORGOTTEN = "hana"  # the tenth
READY_SECONDS = 120.0


# Small clusters, so that ten people's digits make a dozen of them, and no mirrored digits; the rest is as shipped.
SETTINGS = {
    "OUBLI_PARTITION__CAP": "200",
    "OUBLI_PARTITION__MIN": "40",
    "OUBLI_TRAINING__FLIP": "false",
    "OUBLI_CLOSED_FORM__ENABLED": "true",  # its digest is part of the proof
}


def demo(
    exit_after: Annotated[bool, typer.Option("--exit", help="End after the story.")] = False,
    port: Annotated[int, typer.Option(help="Port of the API; another if it is taken.")] = 8000,
) -> None:
    """Play the whole story with real handwritten digits, then keep serving until Ctrl-C."""
    words = f"... and a second service, which never sees {FORGOTTEN} ..."
    with (
        _starting(port, SETTINGS) as first,
        _starting(0, SETTINGS) as other,
        _client_of(*first) as client,
        _client_of(*other, words=words) as second,
    ):
        _, url, folder = first
        cast = _cast()
        _tell(client, second, cast)
        _prove(client, second)
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


STARTING = "Starting API, worker and timer (`oubli serve`) ..."


@contextmanager
def running_service(port: int, settings: Mapping[str, str] | None = None) -> Iterator[tuple[Client, str, Path]]:
    """An embedded service in a throw-away folder: a client with its admin key, its address, the folder.

    port  preferred; another if it is taken, any if 0.
    """
    with _starting(port, settings) as service, _client_of(*service) as client:
        yield client, service[1], service[2]


@contextmanager
def _starting(
    port: int, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The same, which may not answer yet: its process, its address, the folder."""
    folder = Path(tempfile.mkdtemp(prefix="oubli-demo-"))
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service.cli", "serve", "--data", str(folder), "--port", str(port)]
    # Of its own session: Ctrl-C ends the story here first, and the service in order.
    environment = {**os.environ, "OUBLI_LOG_LEVEL": "WARNING", **(settings or {})}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process, url, folder
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _client_of(process: subprocess.Popen[bytes], url: str, folder: Path, *, words: str = STARTING) -> Iterator[Client]:
    """Wait until the service answers; a client with its admin key.

    words  shown meanwhile.
    """
    with console.status(words):
        _wait(process, url)
    with Client(url, (folder / "admin-key").read_text().strip()) as client:
        yield client


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with Client(url, None) as client:
        while time.monotonic() < deadline and process.poll() is None:
            if client.is_ready():
                return
            time.sleep(0.2)
    raise Misconfigured("The embedded service did not start; its messages are above.")


@dataclass(frozen=True)
class _Cast:
    """Who contributes what, and what is classified."""

    contributed: list[Digit]
    held_out: list[Digit]

    @property
    def share(self) -> list[Digit]:
        """What FORGOTTEN gave."""
        return [digit for digit in self.contributed if digit.owner == FORGOTTEN]

    @property
    def others(self) -> list[Digit]:
        """What the others gave, in the same order."""
        return [digit for digit in self.contributed if digit.owner != FORGOTTEN]


def _cast() -> _Cast:
    from service.cli.digits import digits  # late, with NumPy and scikit-learn: no other command waits for them

    return _Cast(*digits(PEOPLE, FORGOTTEN))


def _tell(client: Client, second: Client, cast: _Cast) -> None:
    """Contribute, train, erase; then say what it took. The second service learns from the others beside it."""
    started = time.monotonic()
    contribute(client, cast.contributed, f"{len(PEOPLE) + 1} people contribute")
    at_once = accuracy(client, cast.held_out, "Predicting at once, before anything is trained")
    contribute(second, cast.others, f"{len(PEOPLE)} of them contribute the same to the second service")
    wait_until_trained(client, "The worker trains prompts")
    trained = time.monotonic() - started
    before = served_clusters(client)
    known = accuracy(client, cast.held_out, "Predicting held-out digits")
    _announce(client, cast, prompts=len(before))

    asked = time.monotonic()
    erasure = client.request("DELETE", f"/owners/{FORGOTTEN}")
    stopped = time.monotonic() - asked
    missing = accuracy(client, cast.held_out, "Predicting, use has stopped")
    wait_for(client, erasure["id"])
    completed = time.monotonic() - asked
    wait_until_trained(client, f"The worker trains prompts again, without {FORGOTTEN}")
    restored = time.monotonic() - asked
    after = served_clusters(client)
    forgotten = accuracy(client, cast.held_out, "Predicting after it")

    known_digests = prompt_digests(before)
    changed = [cluster for cluster in after if cluster["prompt"]["digest"] not in known_digests]
    table = Table(title="What it took", show_header=False)
    table.add_row("contributing, and training all prompts", f"{trained:.1f} s, {len(before)} prompts")
    table.add_row("use of her digits stopped after", f"{stopped * 1000:.0f} ms, with the answer itself", style="bold")
    table.add_row("erasure completed after", f"{completed:.1f} s: her digits, and all that knew them, are destroyed")
    table.add_row("every prompt served again after", f"{restored:.1f} s, predictions going on meanwhile")
    table.add_row("prompts retrained", f"{len(changed)} of {len(after)}; the others are byte for byte as before")
    table.add_row("accuracy before any prompt was trained", f"{at_once:.1%}")
    table.add_row("accuracy before, during, after", f"{known:.1%} → {missing:.1%} → {forgotten:.1%}")
    table.add_row("her samples left in the service", str(len(list(client.pages("/samples", owner=FORGOTTEN)))))
    show(table)


def _announce(client: Client, cast: _Cast, *, prompts: int) -> None:
    quote = client.request("POST", "/erasures", json={"owner": FORGOTTEN, "validate_only": True})
    words = (
        f"{FORGOTTEN} gave {len(cast.share)} of {len(cast.contributed)} digits; {len(quote['clusters'])} of {prompts} "
        f"prompts have seen some of them.\n{FORGOTTEN} asks to be forgotten: DELETE /owners/{FORGOTTEN}"
    )
    console.print(Panel(words, title="The right to erasure"))


def _prove(client: Client, second: Client) -> None:
    """Raises NotProven if the second service, which never saw FORGOTTEN, has not learned the same."""
    wait_until_trained(second, "The second service's worker trains prompts")
    console.print(Panel(compare(learned_by(client), learned_by(second), forgotten=FORGOTTEN), title="The proof"))

"""Whether deletions can keep the model down: two streams of them against `oubli serve` as shipped.

`chase` deletes a sample of the largest cluster whenever that serves a prompt. `flood` deletes five samples a second, of
all clusters. Meanwhile predictions of held-out images are asked for, and erasures are followed. To compare with another
release: `OUBLI_BENCH_CHECKOUT` is the folder whose code serves.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.images import Labelled, load
from service.cli.client import Client
from service.cli.concurrency import CHUNK
from service.cli.printing import console

HELD_OUT = 200
CHASE_SECONDS, FLOOD_SECONDS, AFTER_SECONDS = 120.0, 60.0, 60.0
DELETIONS_PER_SECOND = 5
ASK_EVERY = 0.25  # seconds
READY_SECONDS, TRAINED_SECONDS = 120.0, 900.0


def measure(images: int = 800) -> dict[str, Any]:
    """Both streams, one after the other, each against a service of its own."""
    data, contributed, held_out = load(images, HELD_OUT)
    streams: dict[str, Callable[[Client], list[str]]] = {"chase": _chase, "flood": _flood}
    figures: dict[str, Any] = {}
    for name, stream in streams.items():
        with _running() as client:
            _contribute(client, contributed)
            _wait(lambda c=client: _all_serve(c), TRAINED_SECONDS)
            figures[name] = _measure(client, stream, [item.png() for item in held_out])
    return {"data": data, "images": images, "checkout": str(_checkout()), "load": os.getloadavg()[0], **figures}


def _checkout() -> Path:
    return Path(os.environ.get("OUBLI_BENCH_CHECKOUT", Path(__file__).parents[1])).resolve()


@contextmanager
def _running() -> Iterator[Client]:
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as name:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OUBLI_")}
        port = _free_port()
        command = [sys.executable, "-m", "service.cli", "serve", "--data", name, "--port", str(port)]
        environment = {**kept, "OUBLI_LOG_LEVEL": "WARNING"}
        process = subprocess.Popen(command, cwd=_checkout(), env=environment, start_new_session=True)
        try:
            with Client(f"http://127.0.0.1:{port}", None) as stranger:
                _wait(stranger.is_ready, READY_SECONDS)
            with Client(f"http://127.0.0.1:{port}", (Path(name) / "admin-key").read_text().strip()) as client:
                yield client
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the service is not where it should be")
        time.sleep(0.5)


def _contribute(client: Client, contributed: Sequence[Labelled]) -> None:
    for start in range(0, len(contributed), CHUNK):
        chunk = contributed[start : start + CHUNK]
        said = [{"label": item.label, "owner": "one"} for item in chunk]
        files = [("images", ("image.png", item.png())) for item in chunk]
        client.request("POST", "/samples/batch", files=files, data={"metadata": json.dumps(said)})


def _all_serve(client: Client) -> bool:
    clusters = list(client.pages("/clusters"))
    return bool(clusters) and all(c["prompt"] and c["prompt"]["members"] == c["samples"] for c in clusters)


def _chase(client: Client) -> list[str]:
    """Ids of the erasures."""
    target = max(client.pages("/clusters"), key=lambda cluster: cluster["samples"])["id"]
    members = [sample["id"] for sample in client.pages("/samples", cluster=target)]
    found = []
    until = time.monotonic() + CHASE_SECONDS
    while time.monotonic() < until:
        if client.request("GET", f"/clusters/{target}")["prompt"] is not None:
            found.append(client.request("DELETE", f"/samples/{members.pop()}")["id"])
        time.sleep(0.1)
    return found


def _flood(client: Client) -> list[str]:
    """Ids of the erasures."""
    ids = [sample["id"] for sample in client.pages("/samples")]
    random.Random(0).shuffle(ids)
    found = []
    began = time.monotonic()
    for place in range(int(FLOOD_SECONDS * DELETIONS_PER_SECOND)):
        time.sleep(max(0.0, began + place / DELETIONS_PER_SECOND - time.monotonic()))
        found.append(client.request("DELETE", f"/samples/{ids[place]}")["id"])
    return found


def _measure(client: Client, stream: Callable[[Client], list[str]], asked: Sequence[bytes]) -> dict[str, Any]:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(_ask_until, stop, client, asked)
        try:
            began = time.time()
            ids = stream(client)
            ended = time.time()
            at_end = _erasures(client, ids)
            time.sleep(AFTER_SECONDS)
        finally:
            stop.set()
        answers = asking.result()
    finished = _erasures(client, ids)
    during = [degraded for when, degraded in answers if when <= ended]
    after = [degraded for when, degraded in answers if when > ended]
    took = [_seconds(one) for one in finished if one["completed_at"] is not None]
    clusters = list(client.pages("/clusters"))
    return {
        "stream_seconds": ended - began,
        "erasures": len(ids),
        "completed_at_end": sum(one["completed_at"] is not None for one in at_end),
        "completed_after": len(took),
        "to_completed_p50_s": float(np.percentile(took, 50)) if took else None,
        "to_completed_max_s": max(took, default=None),
        "undegraded_during": 1 - sum(during) / len(during),
        "undegraded_after": 1 - sum(after) / len(after),
        "answers": len(answers),
        "serving_after": sum(cluster["prompt"] is not None for cluster in clusters) / len(clusters),
    }


def _erasures(client: Client, ids: Sequence[str]) -> list[dict[str, Any]]:
    wanted = set(ids)
    return [one for one in client.pages("/erasures") if one["id"] in wanted]


def _seconds(erasure: dict[str, Any]) -> float:
    accepted, completed = (datetime.fromisoformat(erasure[name]) for name in ("accepted_at", "completed_at"))
    return (completed - accepted).total_seconds()


def _ask_until(stop: threading.Event, client: Client, asked: Sequence[bytes]) -> list[tuple[float, bool]]:
    """When each prediction was answered (Unix seconds), and whether it was degraded."""
    answers = []
    place = 0
    while not stop.wait(ASK_EVERY):
        png = asked[place % len(asked)]
        (answer,) = client.request("POST", "/predict", files=[("image", ("image.png", png))])["predictions"]
        answers.append((time.time(), bool(answer["degraded"])))
        place += 1
    return answers


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    names = [name for name in figures["chase"] if name != "answers"]
    table = Table(
        "stream", *names, title=f"{figures['images']} images of {figures['data']}; load {figures['load']:.1f}"
    )
    for stream in ("chase", "flood"):
        row = figures[stream]
        table.add_row(stream, *(f"{row[n]:.2f}" if isinstance(row[n], float) else str(row[n]) for n in names))
    console.print(table)

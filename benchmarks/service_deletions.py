"""Deleting from a running service under load: how long until the closed form serves without a sample.

Seen from outside there is no such moment: a prediction looks at the registry before it is answered. Two bounds instead.
The first prediction that is asked for once a deletion has been answered: when it has its answer, the closed form serves
without the sample, and the caller knows. And the replica's own record of how far it has come, which it writes after it
has taken the sample out and solved; the registry is read every few milliseconds to see it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.images import Labelled
from service.cli.client import Client
from service.cli.concurrency import CHUNK
from service.cli.demo import running_service
from service.cli.printing import progress_bar
from service.errors import ServiceError
from service.registry import replicas
from service.registry.engine import Registry
from service.settings import Settings

UNDISTURBED = 100  # predictions before the first deletion
POLL_SECONDS = 0.003
SCOPES = "samples,predict,erase,read"


def without_worker(contributed: Sequence[Labelled], asked: Sequence[Labelled], deletions: int) -> dict[str, Any]:
    """`oubli api` alone: no training disturbs, and the closed form answers everything."""
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as name, running_api(Path(name)) as (url, key):
        return _measure(url, key, Path(name), contributed, asked, deletions)


def with_worker(contributed: Sequence[Labelled], asked: Sequence[Labelled], deletions: int) -> dict[str, Any]:
    """`oubli serve` as shipped: a worker trains on the same cores, first everything, then what is withdrawn."""
    with running_service(0) as (client, url, folder):
        return _measure(url, client.key or "", folder, contributed, asked, deletions)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Smallest, median, 99th percentile and largest, in milliseconds."""
    milliseconds = np.array(seconds) * 1000.0
    names = {"best_ms": 0, "p50_ms": 50, "p99_ms": 99, "max_ms": 100}
    return {name: float(np.percentile(milliseconds, percent)) for name, percent in names.items()}


@contextmanager
def running_api(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """`oubli api` alone, without a worker: its address and a key."""
    oubli, data = [sys.executable, "-m", "service.cli"], ["--data", str(folder)]
    environment = {**os.environ, "OUBLI_LOG_LEVEL": "WARNING", **(settings or {})}

    def run(*command: str) -> str:
        finished = subprocess.run(
            [*oubli, *command, *data], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return finished.stdout.strip()

    run("migrate")
    key = run("keys", "create", "--scopes", SCOPES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*oubli, "api", "--port", str(port), *data], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        client = Client(url, key)
        _wait_until(lambda: process.poll() is not None or _answers(client), seconds=120)
        yield url, key
    finally:
        process.terminate()
        process.wait()


def _measure(
    url: str, key: str, folder: Path, contributed: Sequence[Labelled], asked: Sequence[Labelled], deletions: int
) -> dict[str, Any]:
    """One deletion after the other, while another client asks for one prediction after the other."""
    client, pngs = Client(url, key), [item.png() for item in asked]
    ids = contribute(client, contributed)
    stop = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(_ask_until, stop, Client(url, key), pngs)
        watched = threads.submit(_watch_until, stop, Settings(data_dir=folder).database)
        try:
            undisturbed = [_ask(client, png) for png in _cycle(pngs, UNDISTURBED)]
            began = time.perf_counter()
            figures, answered = _delete(client, ids[:deletions], pngs)
            took = time.perf_counter() - began
            _wait_until(lambda: other.done() or watched.done() or _on_record(folder) >= deletions, seconds=60)
        finally:
            stop.set()
    recorded = watched.result()
    delays = [max(0.0, recorded(count) - when) for count, when in enumerate(answered, start=1)]
    return {
        "images": len(contributed),
        "deletions": deletions,
        "deletions_per_second": deletions / took,
        "load": os.getloadavg()[0],
        "delete": quantiles(figures["delete"]),
        "first_predict_after_delete": quantiles(figures["predict"]),
        "predict_before_any_delete": quantiles(undisturbed),
        "predict_of_the_other_client": quantiles(other.result()),
        "on_record_after_delete": quantiles(delays),
        "left": client.request("GET", "/status")["closed_form"]["samples"],
    }


def contribute(client: Client, contributed: Sequence[Labelled]) -> list[str]:
    """Ids, in order."""
    ids: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("Contributing", total=len(contributed))
        for start in range(0, len(contributed), CHUNK):
            chunk = contributed[start : start + CHUNK]
            said = json.dumps([{"label": item.label, "owner": "ada"} for item in chunk])
            files = [("images", ("image.png", item.png())) for item in chunk]
            answer = client.request("POST", "/samples/batch", files=files, data={"metadata": said})
            ids += [item["sample"]["id"] for item in answer["items"]]
            bar.advance(task, len(chunk))
    return ids


def _delete(client: Client, ids: Sequence[str], pngs: Sequence[bytes]) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each deletion, and of the prediction right after; and when each deletion was answered."""
    seconds: dict[str, list[float]] = {"delete": [], "predict": []}
    answered = []
    with progress_bar() as bar:
        task = bar.add_task("Deleting", total=len(ids))
        for sample_id, png in zip(ids, _cycle(pngs, len(ids)), strict=True):
            began = time.perf_counter()
            client.request("DELETE", f"/samples/{sample_id}")
            answered.append(time.perf_counter())
            seconds["delete"].append(answered[-1] - began)
            seconds["predict"].append(_ask(client, png))
            bar.advance(task)
    return seconds, answered


def _ask(client: Client, png: bytes) -> float:
    """Seconds of one prediction of one image."""
    began = time.perf_counter()
    client.request("POST", "/predict", files=[("image", ("image.png", png))])
    return time.perf_counter() - began


def _ask_until(stop: threading.Event, client: Client, pngs: Sequence[bytes]) -> list[float]:
    seconds: list[float] = []
    while not stop.is_set():
        seconds.append(_ask(client, pngs[len(seconds) % len(pngs)]))
    return seconds


def _watch_until(stop: threading.Event, database: str) -> Callable[[int], float]:
    """When the replica was first seen to have applied so many removals, or more."""
    marks: list[tuple[int, float]] = []
    registry = Registry(database)
    try:
        while not stop.is_set():
            applied = _applied(registry)
            if not marks or applied > marks[-1][0]:
                marks.append((applied, time.perf_counter()))
            time.sleep(POLL_SECONDS)
    finally:
        registry.close()
    return lambda count: next(when for applied, when in marks if applied >= count)


def _applied(registry: Registry) -> int:
    with registry.read() as session:
        return min((replica.marks.removals for replica in replicas.every(session)), default=0)


def _on_record(folder: Path) -> int:
    registry = Registry(Settings(data_dir=folder).database)
    try:
        return _applied(registry)
    finally:
        registry.close()


def _cycle(items: Sequence[bytes], count: int) -> Iterator[bytes]:
    return (items[i % len(items)] for i in range(count))


def _answers(client: Client) -> bool:
    try:
        return bool(client.request("GET", "/status")["closed_form"] is not None)
    except ServiceError:
        return False


def _wait_until(done: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError("the service does not come so far; its messages are above")
        time.sleep(0.2)

"""A thousand swaps of prompts under predict load: memory of the API flat, no request failed, nothing answered too late.

Tiny backbone and tiny clusters, so that a real worker publishes fast. A sample is deleted and another contributed,
over and over: each time prompts are withdrawn and others published. What is counted is the serving epoch, which every
publication and every withdrawal moves on. Every answer is kept, and looked at as in `deletions`; no image is ever
contributed twice, so no prompt's key comes back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from benchmarks import images as pictures
from benchmarks.images import Labelled
from benchmarks.service_deletions import contribute
from benchmarks.serving import load
from benchmarks.serving.deletions import Deleted, delete, violations
from benchmarks.serving.table import multipart
from service.cli.client import Client
from service.cli.demo import running_service
from service.cli.printing import console, progress_bar
from service.registry import state
from service.registry.engine import Registry
from service.settings import Settings

CLIENTS, SAMPLES = 8, 240
SETTINGS = {
    "OUBLI_BACKBONE": "tiny",
    "OUBLI_PARTITION__CAP": "24",
    "OUBLI_PARTITION__MIN": "6",
    "OUBLI_TRAINING__EPOCHS": "1",
    "OUBLI_TRAINING__SETTLE_SECONDS": "0",
    "OUBLI_TRAINING__PROMPT_SIZE": "2",
}
MARKS = (0.1, 0.5, 1.0)
FLAT = 1.10  # of the memory at a tenth of the swaps


def measure(images: int = 1000) -> dict[str, Any]:
    """images  how many swaps."""
    _, supply, held_out = pictures.load(SAMPLES + 2 * images, 64)  # a deletion may find its prompt withdrawn already
    contributed, spare = supply[:SAMPLES], iter(supply[SAMPLES:])
    with running_service(0, SETTINGS) as (client, url, data), tempfile.TemporaryDirectory(prefix="oubli-load-") as name:
        ids, stop = contribute(client, contributed), Path(name) / "stop"
        registry, port = Registry(Settings(data_dir=data).database), int(url.rsplit(":", 1)[1])
        pngs = [item.png() for item in held_out]
        asked = [(sent, ()) for sent, _ in multipart(port, pngs, [""] * len(pngs), 1, key=client.key)]
        job = load.Job(port, CLIENTS, 3600, 0.0, asked, record=True, until_file_exists=str(stop))
        process = load.start(job, Path(name))
        try:
            memory, deleted, took = _swap(client, registry, ids, spare, images)
        finally:
            stop.touch()
            figures = load.finish(process)
            registry.close()
    events = figures.pop("events")
    growth = memory["100 %"] / memory["10 %"]
    return {
        "swaps": images,
        "seconds": took,
        "memory_bytes": memory,
        "growth": growth,
        "flat": growth <= FLAT,
        "predictions": figures["requests"],
        "deletions": len(deleted),
        "prompts_withdrawn": sum(len(gone) for _, _, gone in deleted),
        "violations": violations(events, deleted),
        "failed": sum(figures["errors"].values()),
        "errors": figures["errors"],
    }


def _swap(
    client: Client, registry: Registry, ids: list[str], spare: Iterator[Labelled], swaps: int
) -> tuple[dict[str, int], list[Deleted], float]:
    """Memory of the API at the marks, what was deleted, and the seconds it all took."""
    memory: dict[str, int] = {}
    deleted: list[Deleted] = []
    began, first = time.monotonic(), _epoch(registry)
    with progress_bar() as bar:
        task = bar.add_task("Swapping prompts", total=swaps)
        while (done := _epoch(registry) - first) < swaps:
            _mark(memory, done / swaps)
            bar.update(task, completed=done)
            deleted.append(delete(client, ids.pop(0)))
            if (item := next(spare, None)) is None:
                raise SystemExit("There are too few images: ask for fewer swaps (--images).")
            said = {"label": item.label, "owner": "ada"}
            files = [("image", ("image.png", item.png()))]
            ids.append(client.request("POST", "/samples", files=files, data=said)["id"])
    _mark(memory, 1.0)
    return memory, deleted, time.monotonic() - began


def _mark(memory: dict[str, int], share: float) -> None:
    for mark in MARKS:
        if share >= mark:
            memory.setdefault(f"{mark * 100:.0f} %", _resident())


def _epoch(registry: Registry) -> int:
    with registry.read_one() as session:
        return state.epoch(session)


def _resident() -> int:
    """Bytes of the API's process, a descendant of this one."""
    found: Sequence[psutil.Process] = psutil.Process().children(recursive=True)
    apis = [process for process in found if "api" in process.cmdline()]
    if not apis:
        raise RuntimeError("the API's process is not to be found")
    return max(int(process.memory_info().rss) for process in apis)


def show(figures: dict[str, Any]) -> None:
    """As a table. Ends with an error if a request has failed, or memory has grown."""
    table = Table("", *figures["memory_bytes"], title=f"{figures['swaps']:,} swaps in {figures['seconds']:.0f} s")
    table.add_row("memory of the API", *(f"{taken / 2**20:,.0f} MB" for taken in figures["memory_bytes"].values()))
    console.print(table)
    console.print(
        f"Growth {figures['growth']:.3f}; {figures['predictions']:,} predictions, {figures['failed']} failed; "
        f"{figures['deletions']} deletions withdrew {figures['prompts_withdrawn']} prompts, "
        f"{figures['violations']} violations"
    )
    if figures["violations"]:
        raise SystemExit("A withdrawn prompt has answered.")
    if figures["failed"]:
        raise SystemExit(f"Requests have failed: {figures['errors']}")
    if not figures["flat"]:
        raise SystemExit(f"Memory has grown by more than {FLAT - 1:.0%}.")

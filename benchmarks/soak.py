"""Every sample is erased: as many deletions as samples, in random order, by four clients at once, in production shape.

All must be completed, the audit clean, and the memory of API and workers no larger at the end than after a quarter.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.production import clients, contribute, running_fleet, shuffled
from benchmarks.service_deletions import quantiles
from service.cli.printing import console, progress_bar
from tests.integration.fleet import Fleet

CLIENTS = 4
QUARTER = 0.25
SETTLE_SECONDS = 3600.0
FLAT = 1.10  # of the memory after a quarter of the deletions


def measure(images: int = 10_000, *, seed: int = 0) -> dict[str, Any]:
    """So many samples, all deleted."""
    with running_fleet() as fleet, progress_bar() as bar:
        task = bar.add_task("Contributing", total=images)
        ids = shuffled(contribute(fleet, images, seed=seed, bar=bar, task=task), seed=seed)
        fleet.settle(seconds=SETTLE_SECONDS)
        memory = {"before": fleet.resident()}
        task = bar.add_task("Deleting", total=images)
        began = time.monotonic()
        seconds, memory["quarter"] = _delete(fleet, ids, bar, task)
        accepted = time.monotonic() - began
        memory["all"] = fleet.resident()
        fleet.settle(seconds=SETTLE_SECONDS)
        completed = time.monotonic() - began
        memory["completed"] = fleet.resident()
        states = Counter(erasure["state"] for erasure in fleet.pages("/erasures"))
        audit = fleet.audit()
    watched = [name for name in memory["all"] if name != "beat" and name in memory["quarter"]]
    growth = {name: memory["all"][name] / memory["quarter"][name] for name in watched}
    return {
        "images": images,
        "delete": quantiles(seconds),
        "accepted_seconds": accepted,
        "completed_seconds": completed,
        "erasures": dict(states),
        "audit_exit": audit.code,
        "memory_bytes": memory,
        "growth": growth,
        "flat": max(growth.values()) <= FLAT,
        "restarts": {name: member.endings for name, member in fleet.members.items() if member.endings},
        "load": os.getloadavg()[0],
    }


def _delete(fleet: Fleet, ids: Sequence[str], bar: Progress, task: TaskID) -> tuple[list[float], dict[str, int]]:
    """Seconds of each deletion, and memory after the first quarter of them."""
    seconds: list[float] = []
    quarter: dict[str, int] = {}
    lock = threading.Lock()

    def work(number: int) -> None:
        client = clients(fleet)[number % len(fleet.ports)]
        for sample_id in ids[number::CLIENTS]:
            began = time.perf_counter()
            client.request("DELETE", f"/samples/{sample_id}")
            took = time.perf_counter() - began
            with lock:
                seconds.append(took)
                if len(seconds) == max(1, int(QUARTER * len(ids))):
                    quarter.update(fleet.resident())
            bar.advance(task)

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, range(CLIENTS)))
    return seconds, quarter


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    memory = figures["memory_bytes"]
    table = Table("process", *memory, "all / quarter", title=f"{figures['images']:,} deletions by {CLIENTS} clients")
    for name, ratio in figures["growth"].items():
        table.add_row(name, *(f"{taken.get(name, 0) / 2**20:,.0f} MB" for taken in memory.values()), f"{ratio:.3f}")
    console.print(table)
    delete = figures["delete"]
    console.print(
        f"DELETE p50 {delete['p50_ms']:.0f} ms, p99 {delete['p99_ms']:.0f} ms; accepted in "
        f"{figures['accepted_seconds']:.0f} s, completed in {figures['completed_seconds']:.0f} s; "
        f"erasures {figures['erasures']}; audit exits {figures['audit_exit']}; load {figures['load']:.1f}"
    )

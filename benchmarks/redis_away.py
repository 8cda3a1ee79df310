"""Does forgetting wait for Redis? `DELETE` with Redis up and with Redis stopped (SIGSTOP), in turns, in one run.

A stopped Redis is the worst kind: it accepts connections and never answers. Each turn is as long as the next, so that
whatever else the machine does meanwhile disturbs both alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.production import clients, contribute, running_fleet, shuffled
from benchmarks.service_deletions import quantiles
from service.cli.client import Client
from service.cli.printing import console, progress_bar
from tests.integration.fleet import Fleet

TURN = 25  # deletions
STATES = ("up", "stopped")


def measure(images: int = 1200, *, seed: int = 0) -> dict[str, Any]:
    """Half of the samples are deleted, so that the last deletion meets a service like the first."""
    with running_fleet() as fleet, progress_bar() as bar:
        task = bar.add_task("Contributing", total=images)
        ids = shuffled(contribute(fleet, images, seed=seed, bar=bar, task=task), seed=seed)
        fleet.settle()
        turns = max(1, images // 2 // TURN // len(STATES))
        task = bar.add_task("Deleting", total=turns * TURN * len(STATES))
        seconds: dict[str, list[float]] = {state: [] for state in STATES}
        for turn in range(turns):
            for place, state in enumerate(STATES):
                start = (turn * len(STATES) + place) * TURN
                seconds[state] += _delete(fleet, ids[start : start + TURN], stopped=state == "stopped")
                bar.advance(task, TURN)
        fleet.settle()
        audit = fleet.audit().code
    p50, p99 = (float(np.percentile(seconds["stopped"], q) / np.percentile(seconds["up"], q)) for q in (50, 99))
    return {
        "images": images,
        "deletions": {state: len(taken) for state, taken in seconds.items()},
        "delete": {state: quantiles(taken) for state, taken in seconds.items()},
        "ratio": {"p50": p50, "p99": p99},
        "audit_exit": audit,
        "load": os.getloadavg()[0],
    }


def _delete(fleet: Fleet, ids: Sequence[str], *, stopped: bool) -> list[float]:
    """Seconds of each, asked of the replicas in turn."""
    replicas = clients(fleet)
    if stopped:
        fleet.redis.pause()
    try:
        return [_one(replicas[i % len(replicas)], sample_id) for i, sample_id in enumerate(ids)]
    finally:
        if stopped:
            fleet.redis.resume()


def _one(client: Client, sample_id: str) -> float:
    began = time.perf_counter()
    client.request("DELETE", f"/samples/{sample_id}")
    return time.perf_counter() - began


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("Redis", "deletions", "p50", "p99", "max", title="DELETE /samples/{id}, PostgreSQL, 2 API replicas")
    for state, taken in figures["delete"].items():
        row = (f"{taken[name]:.1f} ms" for name in ("p50_ms", "p99_ms", "max_ms"))
        table.add_row(state, str(figures["deletions"][state]), *row)
    console.print(table)
    ratio = figures["ratio"]
    console.print(
        f"stopped / up: p50 x {ratio['p50']:.2f}, p99 x {ratio['p99']:.2f}; audit exits {figures['audit_exit']}; "
        f"load {figures['load']:.1f}"
    )

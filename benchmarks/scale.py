"""What the registry's size costs: `DELETE`, `POST` without its forward pass, and a pass of reconcile, as ratios.

A synthetic crowd (tests/crowd.py) on a PostgreSQL of its own, small and large in one run. Samples stand where a seed
puts them, clusters hold about a thousand; nothing is trained, and no object of the crowd is in the store.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models import determinism
from service.core import erasure, intake
from service.core.context import Context
from service.core.opening import open_context
from service.core.reconcile import reconcile
from service.registry import samples
from service.registry.engine import migrate
from service.settings import Settings
from tests.crowd import Plans, fill, new_sample
from tests.servers import fresh_database, postgres

SMALL, LARGE = 10_000, 10_000_000
PARTITION = {"cap": 1500, "min": 300}
TIMES = 200
TABLES = ("samples", "prompt_members", "owners", "erasure_samples", "erasure_clusters", "erasures", "idempotency")
WHAT = {
    "delete": "DELETE of one sample",
    "reconcile": "reconcile after it",
    "idle": "reconcile, nothing to do",
    "post": "POST of one sample, without the forward pass",
}


def measure(images: int = LARGE) -> dict[str, Any]:
    """images  how many samples the large registry holds."""
    determinism.configure(threads=1, device="cpu")
    with postgres() as server:
        figures: dict[str, Any] = {}
        for name, size in (("small", SMALL), ("large", images)):
            with fresh_database(server) as url, tempfile.TemporaryDirectory(prefix="oubli-scale-") as folder:
                figures[name] = _measure(url, Path(folder), size)
    figures["ratio"] = {what: figures["large"][what]["p50_ms"] / figures["small"][what]["p50_ms"] for what in WHAT}
    return figures


def _measure(url: str, folder: Path, size: int) -> dict[str, Any]:
    migrate(url)
    chosen = Settings(data_dir=folder, database_url=url, backbone="efficientnet-lite0", partition=PARTITION)
    context = open_context(chosen)
    with closing(context.registry):
        started = time.perf_counter()
        clusters = fill(context, size)
        filled = time.perf_counter() - started
        with Plans(context) as plans:
            seconds = _operations(context)
        scans = plans.scans(TABLES)
        return {
            "samples": size,
            "clusters": clusters,
            "filled_seconds": filled,
            "statements": plans.count,
            "scans": [f"{table}: {statement}" for table, statement in scans],
            **{what: _quantiles(found) for what, found in seconds.items()},
        }


def _operations(context: Context) -> dict[str, list[float]]:
    """Each operation some hundred times, in turn."""
    reconcile(context)
    seconds: dict[str, list[float]] = {what: [] for what in WHAT}
    for i, sample_id in enumerate(_chosen(context)):
        new_samples = [new_sample(context, i)]
        seconds["delete"].append(_seconds(lambda gone=sample_id: erasure.erase_sample(context, gone)))
        seconds["reconcile"].append(_seconds(lambda: reconcile(context)))
        seconds["idle"].append(_seconds(lambda: reconcile(context)))
        seconds["post"].append(_seconds(lambda coming=new_samples: intake.take_in(context, coming)))
        reconcile(context)
    return seconds


def _chosen(context: Context) -> list[str]:
    """Samples at random places in the order of arrival."""
    with context.registry.read() as session:
        ids = [one for one, _ in samples.arrivals(session, limit=100_000)]
    return random.Random(20404).sample(ids, TIMES)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    milliseconds = np.array(seconds) * 1000.0
    return {f"p{q}_ms": float(np.percentile(milliseconds, q)) for q in (50, 99)}


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    small, large = figures["small"], figures["large"]
    sizes = [f"{one['samples']:,} in {one['clusters']:,} clusters" for one in (small, large)]
    table = Table("p50 / p99, ms", *sizes, "ratio of p50", title="What the registry's size costs")
    for what, words in WHAT.items():
        cells = [f"{one[what]['p50_ms']:.1f} / {one[what]['p99_ms']:.1f}" for one in (small, large)]
        table.add_row(words, *cells, f"{figures['ratio'][what]:.2f}")
    console = Console()
    console.print(table)
    console.print(f"statements that read a large table from end to end: {large['scans'] or 'none'}")

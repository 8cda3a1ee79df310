"""The closed-form tier: the cost of a deletion, by samples and by width, and when it serves without them.

Three parts. A real tier on a real registry and folder, filled with random descriptors the short way: rows in bulk and
files without a flush. Down-date and solve alone, by width and BLAS threads. A running service whose samples are deleted
one after the other while another client asks for predictions (`service_deletions`).
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from uuid6 import uuid7

from benchmarks import service_deletions
from benchmarks.images import load
from benchmarks.service_deletions import quantiles
from models import determinism
from models.closed_form import Accumulators, solve, summarise
from models.descriptor import Descriptor, quantise
from service.cli.printing import progress_bar
from service.core import erasure, sample_file
from service.core.context import Context
from service.core.opening import open_context
from service.registry import clusters
from service.registry.engine import migrate
from service.registry.roles import TRAINING
from service.registry.tables import ClusterRow, OwnerRow, SampleRow, StateRow
from service.serving.closed_form import ClosedFormTier
from service.settings import Settings

HELD = (1_000, 10_000, 100_000)
WIDTHS = (768, 1280, 2560, 5536)
THREADS = (1, 2)
SUMMARY = 768  # entries of the head for the meantime
LABELS = [f"label {i}" for i in range(10)]
ROWS = 1_000  # a bulk insert
STEPS = ("accept", "answers_without", "whole_again", "whole_again_processor")
LEFT = 500  # images that are never deleted
WITH_TRAINING = 100  # deletions while a worker trains what is withdrawn

console = Console()


def measure(*, images: int = 1_500, deletions: int = 300) -> dict[str, Any]:
    """All three parts; the figures.

    images     given to the service; all but 500 of them are deleted.
    deletions  of each filled tier.
    """
    determinism.configure(threads=2, device="cpu")
    name, contributed, asked = load(images, 200)
    return {
        "data": name,
        "load_before": os.getloadavg()[0],
        "by_samples": [_by_samples(count, min(deletions, count // 2)) for count in HELD],
        "by_width": [_by_width(width, threads) for width in WIDTHS for threads in THREADS],
        "service": service_deletions.without_worker(contributed, asked, max(len(contributed) - LEFT, 1)),
        "service_that_trains": service_deletions.with_worker(
            contributed, asked, min(WITH_TRAINING, len(contributed) // 2)
        ),
        "load_after": os.getloadavg()[0],
    }


# ------------------------------------------------------------------------------------------- by samples and width


def _by_samples(count: int, deletions: int) -> dict[str, Any]:
    """Deletions from a tier of `count` samples: accepting each, and catching up with it."""
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        migrate(settings.database)
        context = open_context(settings)
        try:
            began = time.perf_counter()
            ids = _fill(context, count)
            filled = time.perf_counter()
            tier = ClosedFormTier(context, name="measured")
            tier.start()
            started = time.perf_counter()
            gone = np.random.default_rng(1).choice(count, deletions, replace=False).tolist()
            with threadpool_limits(limits=1, user_api="blas"):
                costs = [_forget(context, tier, ids[index]) for index in gone]
            alone = ClosedFormTier(context, name="who never saw them")
            alone.start()
            return {
                "samples": count,
                "deletions": deletions,
                "load": os.getloadavg()[0],
                "fill_seconds": filled - began,
                "start_seconds": started - filled,
                **{name: quantiles(seconds) for name, seconds in zip(STEPS, zip(*costs, strict=True), strict=True)},
                "equals_a_start_from_the_survivors": tier.summary() == alone.summary(),
            }
        finally:
            context.registry.close()


def _fill(context: Context, count: int) -> list[str]:
    """`count` samples with random descriptors, one cluster, no prompts; their ids."""
    random = np.random.default_rng(0)
    ids = [str(uuid7()) for _ in range(count)]
    now, owner = datetime.now(UTC), str(uuid7())
    width, kind = context.backbone.descriptor_width, context.backbone.kind.name
    with context.registry.write(exclusive=True) as session, progress_bar() as bar:
        task = bar.add_task(f"Filling with {count:,}", total=count)
        cluster = clusters.create(session, lo=0, hi=2**63 - 1, now=now)
        session.add(OwnerRow(id=owner, ref="benchmark", leaving=False))
        session.flush()
        same = {"owner_id": owner, "cluster_id": cluster, "digest": "0" * 64, "created_at": now, "addition": count}
        same |= {"descriptor_kind": kind, "role": TRAINING}
        for start in range(0, count, ROWS):
            chunk = ids[start : start + ROWS]
            for sample_id, vector in zip(chunk, _units(random, len(chunk), width), strict=True):
                _write(context.settings.data_dir, sample_id, quantise(vector), kind)
            numbered = enumerate(chunk, start=start)
            rows = [{**same, "id": one, "label": LABELS[i % len(LABELS)], "position": i} for i, one in numbered]
            session.execute(sa.insert(SampleRow), rows)
            bar.advance(task, len(chunk))
        session.execute(sa.update(ClusterRow).values(samples=count))
        session.execute(sa.update(StateRow).values(additions=count))
    return ids


def _write(data: Path, sample_id: str, descriptor: Descriptor, kind: str) -> None:
    """Where FolderStore keeps it, but without waiting for the disk."""
    path = data / "objects" / "samples" / sample_id[-2:] / f"{sample_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample_file.encode(np.zeros((2, 2, 3), np.uint8), np.ones(1, np.float32), descriptor, kind=kind))


def _units(random: np.random.Generator, count: int, width: int) -> npt.NDArray[np.float32]:
    rows = random.standard_normal((count, width))
    units: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


def _forget(context: Context, tier: ClosedFormTier, sample_id: str) -> tuple[float, float, float, float]:
    """Seconds of each of `STEPS`. Processor time hardly depends on what else the machine does."""
    began = time.perf_counter()
    erasure.erase_sample(context, sample_id)
    accepted, busy = time.perf_counter(), time.process_time()
    if tier.current() is None:
        raise RuntimeError("the tier was lost")
    answers = time.perf_counter()
    tier.catch_up()
    whole = time.perf_counter()
    return accepted - began, answers - accepted, whole - accepted, time.process_time() - busy


def _by_width(width: int, threads: int, *, repeats: int = 15) -> dict[str, Any]:
    """Taking one sample out and solving, without registry and files."""
    random = np.random.default_rng(0)
    rows = _units(random, 2_000, width)
    state = Accumulators(width)
    state.add(rows, [LABELS[i % len(LABELS)] for i in range(len(rows))])
    removing, summarising, solving = [], [], []
    with threadpool_limits(limits=threads, user_api="blas"):
        for index in range(repeats):
            began = time.perf_counter()
            state.remove(rows[index : index + 1], [LABELS[index % len(LABELS)]])
            removed = time.perf_counter()
            summarise(state, np.arange(min(width, SUMMARY)))
            summarised = time.perf_counter()
            solve(state, ridge=0.1)
            removing.append(removed - began)
            summarising.append(summarised - removed)
            solving.append(time.perf_counter() - summarised)
    figures = {
        "remove": quantiles(removing),
        "summarise": quantiles(summarising),
        "solve": quantiles(solving),
        "load": os.getloadavg()[0],
    }
    return {"width": width, "threads": threads, **figures}


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    table = Table("samples", "deletions", "start", "accepted: p50 / p99", "answers without: p50 / p99")
    table.add_column("whole again: p50 / p99")
    table.add_column("processor time: p50 / p99")
    table.add_column("exact")
    for row in figures["by_samples"]:
        exact = str(row["equals_a_start_from_the_survivors"])
        cells = (f"{row['start_seconds']:.1f} s", *(_span(row[step]) for step in STEPS), exact)
        table.add_row(f"{row['samples']:,}", str(row["deletions"]), *cells)
    console.print(table)
    table = Table("width", "BLAS threads", "down-date: best / p50", "for the meantime: best / p50", "solve: best / p50")
    for row in figures["by_width"]:
        table.add_row(
            str(row["width"]),
            str(row["threads"]),
            _span(row["remove"], "best_ms", "p50_ms"),
            _span(row["summarise"], "best_ms", "p50_ms"),
            _span(row["solve"], "best_ms", "p50_ms"),
        )
    console.print(table)
    for name in ("service", "service_that_trains"):
        row = figures[name]
        title = f"{name.replace('_', ' ')}: {row['deletions']} of {row['images']} images deleted, {row['left']} left"
        table = Table("", "p50 / p99", title=title)
        for figure, value in row.items():
            if isinstance(value, dict):
                table.add_row(figure.replace("_", " "), _span(value))
        console.print(table)


def _span(figures: dict[str, float], low: str = "p50_ms", high: str = "p99_ms") -> str:
    return f"{figures[low]:.1f} / {figures[high]:.1f} ms"

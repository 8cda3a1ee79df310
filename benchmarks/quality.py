"""Leave-one-out quality: how near it is to the quality on test images, and what computing it costs.

Four parts. Accuracy and calibration error of the closed form by leave-one-out on what it has learned from, beside those
on test images. A report of a real tier on a real registry and folder, by samples. Factoring and predicting alone, by
width. How many predictions two lanes compute in a second while reports are computed without end, and while none is.
"""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.closed_form import LABELS, _fill, _units
from benchmarks.images import Labelled, data_folder, load
from benchmarks.trained_tiers import Array, described, folder_of
from models import determinism
from models.closed_form import ClosedFormHead, accumulate, solve
from models.leave_one_out import LeaveOneOut
from models.quality import QualityReport, Tally
from models.spec import ClosedFormSpec
from service.core.context import Context
from service.core.opening import open_context
from service.registry.engine import migrate
from service.serving.closed_form import ClosedFormTier
from service.serving.engine import Engine
from service.serving.jobs import Query
from service.serving.lanes import give_way, make_lanes
from service.serving.quality import CHUNK, Quality
from service.serving.quality_updater import NICE
from service.settings import Settings
from service.settings.learning import QualitySettings

SIZES = (100, 1_000, 10_000)
HELD = (1_000, 10_000, 30_000)
WIDTHS = (768, 2_560, 5_536)
SEEDS = 5  # subsets of each size but the largest
ROUNDS = 3  # with and without reports, in turn
ROUND_SECONDS = 8.0

Asked = dict[str, tuple[Array, list[str]]]  # descriptors and right labels, by what they are of

console = Console()


def measure(*, images: int = 10_000, queries: int = 2_000) -> dict[str, Any]:
    """All four parts; the figures."""
    determinism.configure(threads=1, device="cpu")  # for describing: two threads wait for each other
    name, contributed, tested = load(images, queries)
    tests = {"test images": tested, **_never_looked_at()}
    folder = folder_of(name, len(contributed), len(tested))
    vectors = [
        described(folder / f"quality-{number}.npz", part)[0][1]
        for number, part in enumerate([contributed, *tests.values()])
    ]
    known = [item.label for item in contributed]
    pairs = zip(tests.items(), vectors[1:], strict=True)
    truths = {title: (rows, [item.label for item in items]) for (title, items), rows in pairs}
    sizes = sorted({min(size, len(known)) for size in SIZES})
    return {
        "data": name,
        "load_before": os.getloadavg()[0],
        "accuracy": [_accuracy(vectors[0], known, truths, size) for size in sizes],
        "by_samples": [_by_samples(count) for count in HELD],
        "by_width": [_by_width(width) for width in WIDTHS],
        "beside_predictions": _beside_predictions(HELD[1]),
        "load_after": os.getloadavg()[0],
    }


def _never_looked_at() -> dict[str, list[Labelled]]:
    path = data_folder() / "cifar10-final.npz"
    if not path.is_file():
        return {}
    data = np.load(path, allow_pickle=False)
    pairs = zip(data["test_images"], data["test_labels"], strict=True)
    return {"images never looked at": [Labelled(image, str(data["classes"][label])) for image, label in pairs]}


# ----------------------------------------------------------------------------------------------------- accuracy


def _accuracy(rows: Array, labels: Sequence[str], tests: Asked, size: int) -> dict[str, Any]:
    """Means over subsets of that size."""
    whole = size == len(labels)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(1 if whole else SEEDS):
        chosen = np.random.default_rng(seed).permutation(len(labels))[:size]
        known = [labels[i] for i in chosen]
        for title, report in _reports(rows[chosen], known, tests):
            found.setdefault(title, []).append((report.accuracy, report.calibration_error))
    means = {title: np.mean(pairs, axis=0).tolist() for title, pairs in found.items()}
    spread = {title: np.std([pair[0] for pair in pairs]).item() for title, pairs in found.items()}
    return {"samples": size, "subsets": 1 if whole else SEEDS, "means": means, "spread": spread}


def _reports(rows: Array, labels: list[str], tests: Asked) -> Iterator[tuple[str, QualityReport]]:
    spec = ClosedFormSpec()
    state = accumulate(rows.shape[1], [(rows, labels)])
    head = solve(state, ridge=spec.ridge)
    yield "leave-one-out", _left_out(LeaveOneOut(state, ridge=spec.ridge, temperature=spec.temperature), rows, labels)
    for title, (asked, truth) in tests.items():
        yield title, _asked(head, asked, truth, spec.temperature)


def _left_out(head: LeaveOneOut, rows: Array, labels: Sequence[str]) -> QualityReport:
    tally = Tally(head.labels)
    for start in range(0, len(rows), CHUNK):
        chunk, theirs = rows[start : start + CHUNK], labels[start : start + CHUNK]
        tally.add(theirs, head.scores(chunk, theirs))
    return tally.report()


def _asked(head: ClosedFormHead, rows: Array, labels: Sequence[str], temperature: float) -> QualityReport:
    tally = Tally(head.labels)
    tally.add(labels, head.scores(rows, temperature))
    return tally.report()


# --------------------------------------------------------------------------------------------------------- cost


@contextmanager
def _filled(count: int) -> Iterator[tuple[Context, ClosedFormTier]]:
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as folder:
        settings = Settings(data_dir=Path(folder), quality={"share": 1.0})
        migrate(settings.database)
        context = open_context(settings)
        try:
            _fill(context, count)
            tier = ClosedFormTier(context, name="measured")
            tier.start()
            yield context, tier
        finally:
            context.registry.close()


def _by_samples(count: int) -> dict[str, Any]:
    """A report of a tier of so many samples: without pauses, and once more while its memory is counted."""
    with _filled(count) as (context, tier):
        quality = Quality(context, tier)
        began, busy = time.perf_counter(), time.thread_time()
        measured = quality.compute()
        seconds, worked = time.perf_counter() - began, time.thread_time() - busy
        if measured is None or measured.report.samples != count:
            raise RuntimeError("there is no report of all samples")
        return {
            "samples": count,
            "load": os.getloadavg()[0],
            "seconds": seconds,
            "thread_seconds": worked,
            "peak_bytes": _peak(quality),
        }


def _peak(quality: Quality) -> int:
    """Most bytes of Python's and NumPy's that computing a report holds at once."""
    tracemalloc.start()
    try:
        quality.compute()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _by_width(width: int, count: int = 2_000) -> dict[str, Any]:
    """Factoring, and predicting a thousand samples, without registry and files."""
    rows = _units(np.random.default_rng(0), count, width)
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    state = accumulate(width, [(rows, labels)])
    spec = ClosedFormSpec()
    began = time.thread_time()
    head = LeaveOneOut(state, ridge=spec.ridge, temperature=spec.temperature)
    factored = time.thread_time()
    _left_out(head, rows, labels)
    done = time.thread_time()
    seconds = {"factor_seconds": factored - began, "thousand_seconds": (done - factored) / count * 1_000}
    return {"width": width, "matrix_bytes": state.gram.nbytes, **seconds}


# ------------------------------------------------------------------------------------------- beside predictions


def _beside_predictions(count: int) -> list[dict[str, Any]]:
    """Predictions of two lanes, batches of four: images a second and a batch's time, for each share."""
    found = []
    with _filled(count) as (context, tier):
        engine = Engine(context, tier)
        engine.warm_up()
        for _ in range(ROUNDS):
            for share in (None, QualitySettings().share, 1.0):
                found.append({"share": share, "load": os.getloadavg()[0], **_predicting(context, tier, engine, share)})
    return found


def _predicting(context: Context, tier: ClosedFormTier, engine: Engine, share: float | None) -> dict[str, Any]:
    size = context.backbone.input_size
    batch = [Query(torch.zeros((3, size, size), dtype=torch.uint8), f"{i:064}") for i in range(4)]
    over, times = Event(), list[float]()

    def predict() -> None:
        while not over.is_set():
            began = time.perf_counter()
            engine.run(batch)
            times.append(time.perf_counter() - began)

    with _reporting(context, tier, share), make_lanes(context.settings) as lanes:
        began = time.perf_counter()
        working = [lanes.submit(predict) for _ in range(2)]
        over.wait(ROUND_SECONDS)
        over.set()
        for one in working:
            one.result()
        seconds = time.perf_counter() - began
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {"images_a_second": 4 * len(times) / seconds, "p50_ms": 1_000 * p50, "p99_ms": 1_000 * p99}


@contextmanager
def _reporting(context: Context, tier: ClosedFormTier, share: float | None) -> Iterator[None]:
    """Reports are computed one after the other, as the updater's thread does; none without a share."""
    if share is None:
        yield
        return
    chosen = context.settings.model_copy(update={"quality": QualitySettings(share=share)})
    quality, over = Quality(replace(context, settings=chosen), tier), Event()

    def compute() -> None:
        give_way(NICE)
        while not over.is_set():
            quality.compute()

    thread = Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        over.set()
        quality.stop()
        thread.join()


# -------------------------------------------------------------------------------------------------------- showing


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    for table in _tables(figures):
        console.print(table)


def _tables(figures: dict[str, Any]) -> Iterator[Table]:
    titles = list(figures["accuracy"][0]["means"])
    table = Table("samples", *titles, title=f"accuracy (calibration error), {figures['data']}")
    for row in figures["accuracy"]:
        cells = (f"{accuracy:.4f} ({error:.4f})" for accuracy, error in row["means"].values())
        table.add_row(f"{row['samples']:,}, {row['subsets']} subsets", *cells)
    yield table
    table = Table("samples", "seconds", "of the thread", "peak memory", title="a report")
    for row in figures["by_samples"]:
        cells = (f"{row['seconds']:.1f} s", f"{row['thread_seconds']:.1f} s", f"{row['peak_bytes'] / 1e6:.0f} MB")
        table.add_row(f"{row['samples']:,}", *cells)
    yield table
    table = Table("width", "matrix", "factoring", "1,000 samples", title="the arithmetic alone")
    for row in figures["by_width"]:
        cells = (f"{row['matrix_bytes'] / 1e6:.0f} MB", f"{row['factor_seconds']:.2f} s")
        table.add_row(f"{row['width']:,}", *cells, f"{row['thousand_seconds']:.2f} s")
    yield table
    table = Table("share", "images a second", "batch: p50 / p99", title="predictions beside reports")
    for row in figures["beside_predictions"]:
        share = "no report" if row["share"] is None else str(row["share"])
        table.add_row(share, f"{row['images_a_second']:.0f}", f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f} ms")
    yield table

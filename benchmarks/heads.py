"""Two heads of one sum: from a deletion to the quick and to the whole head, the start of a replica, and what it costs.

Three parts. Down-date and solve alone, by width, and the memory that they need. A real tier on a real registry and
folder of samples, filled with random descriptors the short way: deletions one after the other, idle and while other
threads answer from the same tier; then a replica that starts. And a running service: an image is deleted over HTTP, and
predicted until the answer says that the whole head gave it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.closed_form import LABELS, SUMMARY, _fill, _units
from benchmarks.images import Labelled, load
from benchmarks.service_deletions import contribute, quantiles, running_api
from models import determinism, memory
from models.closed_form import Accumulators, solve, summarise
from models.descriptor import quantise
from service.cli.client import Client
from service.core import erasure
from service.core.context import Context
from service.core.opening import open_context
from service.registry.engine import migrate
from service.serving.closed_form import ClosedFormTier
from service.serving.closed_form_updater import ClosedFormUpdater
from service.settings import Settings

WIDTHS = (768, 2560, 5536)
HELD = 10_000
STARTED = 100_000
ASKERS = 2  # threads that answer meanwhile, as many as a service has lanes
APART_SECONDS = 1.5  # between two deletions: the whole head is solved in between
MEGABYTE = 1 << 20

console = Console()


def measure(*, images: int = HELD, deletions: int = 60, started: int = STARTED) -> dict[str, Any]:
    """All parts; the figures.

    images     given to the service over HTTP.
    deletions  of the filled tier, idle and busy each, and of the service.
    started    samples that a replica starts from.
    """
    memory.keep_freed()
    determinism.configure(threads=ASKERS, device="cpu")
    name, contributed, asked = load(images, 50)
    return {
        "data": name,
        "load_before": os.getloadavg()[0],
        "by_width": [_by_width(width) for width in WIDTHS],
        "tier": _tier(HELD, deletions),
        "start": _start(started),
        "service": _service(contributed, asked, deletions),
        "load_after": os.getloadavg()[0],
    }


# ----------------------------------------------------------------------------------------------- widths and memory


def _by_width(width: int) -> dict[str, Any]:
    """Processor time of each step, in milliseconds, the best of a few; peak memory of sums and one solve."""
    rows, labels = quantise(_units(np.random.default_rng(0), 600, width)), [LABELS[i % 10] for i in range(600)]
    state = Accumulators(width)
    state.add(rows, labels)
    few = np.arange(min(width, SUMMARY))
    order = iter(range(600))

    def down_date() -> None:
        index = next(order)
        state.remove(rows[index : index + 1], labels[index : index + 1])

    return {
        "width": width,
        "down_date_ms": _best(down_date),
        "quick_ms": _best(lambda: summarise(state, few)),
        "copy_ms": _best(state.copy),
        "whole_ms": _best(lambda: solve(state, ridge=0.1), 3),
        "digest_ms": _best(state.digest, 3),
        "waited_ms": _longest_wait(lambda: solve(state, ridge=0.1)),
        "memory_mb": _peak(width),
        "sums_mb": state.gram.nbytes / MEGABYTE,
    }


def _best(work: Any, repeats: int = 7) -> float:
    taken = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken) * 1000


def _longest_wait(work: Any) -> float:
    """Milliseconds for which another thread of this process does not come to its turn while `work` runs."""
    longest, done = [0.0], threading.Event()

    def look() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    looker = threading.Thread(target=look)
    looker.start()
    try:
        work()
    finally:
        done.set()
        looker.join()
    return longest[0] * 1000


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from models import determinism
from models.closed_form import Accumulators, solve
determinism.configure(threads=1, device="cpu")
width = int(sys.argv[1])
def peak():  # of this program alone, without the one that has started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
state = Accumulators(64)
rows = np.random.default_rng(0).standard_normal((64, 64))
state.add(rows / np.linalg.norm(rows, axis=1, keepdims=True), ["a"] * 64)
solve(state, ridge=0.1)
before = peak()
state = Accumulators(width)
rows = np.random.default_rng(0).standard_normal((64, width))
state.add(rows / np.linalg.norm(rows, axis=1, keepdims=True), ["a"] * 64)
state.digest()
solve(state.copy(), ridge=0.1, overwrite=True)
print(peak() - before)
"""


def _peak(width: int) -> float:
    """Megabytes that the sums, their digest and a solve need at most, in a process of their own."""
    command = [sys.executable, "-c", _PEAK, str(width)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# ----------------------------------------------------------------------------------------------------- a filled tier


@contextmanager
def _filled(count: int) -> Iterator[tuple[Context, list[str]]]:
    """A registry and a folder of so many samples; their ids."""
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        migrate(settings.database)
        context = open_context(settings)
        try:
            yield context, _fill(context, count)
        finally:
            context.registry.close()


def _tier(count: int, deletions: int) -> dict[str, Any]:
    """Deletions from a tier with its updater, as a service has it, idle and while `ASKERS` threads answer."""
    with _filled(count) as (context, ids):
        tier = ClosedFormTier(context, name="measured")
        tier.start()
        updater = ClosedFormUpdater(tier, context.settings.worker.heartbeat_seconds)
        updater.start()
        try:
            idle = _deletions(context, tier, updater, ids[:deletions])
            with _asked(context, tier):
                busy = _deletions(context, tier, updater, ids[deletions : 2 * deletions])
        finally:
            updater.stop()
        alone = ClosedFormTier(context, name="who never saw them")
        alone.start()
        return {
            "samples": count,
            "width": context.backbone.descriptor_width,
            "deletions": deletions,
            "idle": idle,
            "busy": busy,
            "equals_a_start_from_the_survivors": tier.summary() == alone.summary(),
        }


def _deletions(
    context: Context, tier: ClosedFormTier, updater: ClosedFormUpdater, ids: Sequence[str]
) -> dict[str, Any]:
    """From the commit of each erasure to an answer without the sample, and to a whole head."""
    quick, whole = [], []
    for sample_id in ids:
        erasure.erase_sample(context, sample_id)
        began = time.perf_counter()
        updater.wake()
        if tier.current() is None:
            raise RuntimeError("the tier was lost")
        quick.append(time.perf_counter() - began)
        while not (solved := tier.current()) or not solved.whole:
            time.sleep(0.002)
        whole.append(time.perf_counter() - began)
        time.sleep(max(0.0, APART_SECONDS - whole[-1]))
    return {"load": os.getloadavg()[0], "quick": quantiles(quick), "whole": quantiles(whole)}


@contextmanager
def _asked(context: Context, tier: ClosedFormTier) -> Iterator[None]:
    """Threads that answer batches of sixteen without end, of the closed form alone."""
    done = threading.Event()
    queries = quantise(_units(np.random.default_rng(1), 16, context.backbone.descriptor_width))

    def ask() -> None:
        while not done.is_set():
            solved = tier.current()
            if solved is not None and solved.head is not None:
                solved.head.scores(queries, 0.1)

    threads = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _start(count: int) -> dict[str, Any]:
    """A replica that starts from so many survivors; and bytes a sample."""
    with _filled(count) as (context, ids):
        tier = ClosedFormTier(context, name="starts")
        began, busy = time.perf_counter(), time.process_time()
        if tier.start() is None:
            raise RuntimeError("the tier was lost")
        objects = context.settings.data_dir / "objects"
        size = next(objects.rglob(f"{ids[0]}*")).stat().st_size
        return {
            "samples": count,
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - busy,
            "load": os.getloadavg()[0],
            "descriptor_bytes": 2 * context.backbone.descriptor_width,
            "file_bytes": size,
        }


# -------------------------------------------------------------------------------------------------- a running service


def _service(contributed: Sequence[Labelled], asked: Sequence[Labelled], deletions: int) -> dict[str, Any]:
    """`oubli api` alone, idle and while another client predicts without pause."""
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as name, running_api(Path(name)) as (url, key):
        client, pngs = Client(url, key), [item.png() for item in asked]
        ids = contribute(client, contributed)
        _until_whole(client, pngs[0])
        idle = _over_http(client, ids[:deletions], pngs)
        stop = threading.Event()
        other = threading.Thread(target=_predict_until, args=(stop, Client(url, key), pngs))
        other.start()
        try:
            busy = _over_http(client, ids[deletions : 2 * deletions], pngs)
        finally:
            stop.set()
            other.join()
        return {"images": len(contributed), "deletions": deletions, "idle": idle, "busy": busy}


def _over_http(client: Client, ids: Sequence[str], pngs: Sequence[bytes]) -> dict[str, Any]:
    """From the answer to DELETE to the first prediction's, and to the first that a whole head has given."""
    predicted, quick, whole, heads = [], [], [], []
    for index, sample_id in enumerate(ids):
        png = pngs[index % len(pngs)]
        began = time.perf_counter()
        _predict(client, png)
        predicted.append(time.perf_counter() - began)
        client.request("DELETE", f"/samples/{sample_id}")
        began = time.perf_counter()
        heads.append(_predict(client, png))
        quick.append(time.perf_counter() - began)
        _until_whole(client, png)
        whole.append(time.perf_counter() - began)
        time.sleep(max(0.0, APART_SECONDS - whole[-1]))
    return {
        "load": os.getloadavg()[0],
        "predict_before": quantiles(predicted),
        "first_predict_after": quantiles(quick),
        "whole": quantiles(whole),
        "first_by_quick_head": heads.count("quick"),
    }


def _predict(client: Client, png: bytes) -> str | None:
    """The head that answered."""
    answer = client.request("POST", "/predict", files=[("image", ("image.png", png))])
    head: str | None = answer["predictions"][0]["head"]
    return head


def _until_whole(client: Client, png: bytes) -> None:
    while _predict(client, png) != "whole":
        pass


def _predict_until(stop: threading.Event, client: Client, pngs: Sequence[bytes]) -> None:
    count = 0
    while not stop.is_set():
        _predict(client, pngs[count % len(pngs)])
        count += 1


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    steps = ("down_date_ms", "quick_ms", "copy_ms", "whole_ms", "digest_ms", "waited_ms", "sums_mb", "memory_mb")
    table = Table("width", *steps)
    for row in figures["by_width"]:
        table.add_row(str(row["width"]), *(f"{row[step]:.1f}" for step in steps))
    console.print(table)
    table = Table("", "load", "quick: p50 / p99", "whole: p50 / p99")
    for name in ("idle", "busy"):
        row = figures["tier"][name]
        table.add_row(f"tier, {name}", f"{row['load']:.1f}", _span(row["quick"]), _span(row["whole"]))
    for name in ("idle", "busy"):
        row = figures["service"][name]
        first = _span(row["first_predict_after"])
        table.add_row(f"HTTP, {name}", f"{row['load']:.1f}", f"{first} (answered)", _span(row["whole"]))
    console.print(table)
    console.print(figures["start"])


def _span(figures: dict[str, float]) -> str:
    return f"{figures['p50_ms']:.1f} / {figures['p99_ms']:.1f} ms"

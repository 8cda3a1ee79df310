"""One table: the raw limit, ours, and every peer that is installed; the same client, images and model, in one run.

The raw limit is measured before and after each cell, since a shared machine's speed changes within seconds: a cell's
share is of the mean of these two. A peer does less than ours: it asks no registry whether a prompt was withdrawn, and
computes no closed form.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import images as pictures
from benchmarks.main_path import wait_until_served
from benchmarks.service_deletions import contribute
from benchmarks.serving import load, peers, raw, two_pass
from benchmarks.serving.http import request
from service.cli.client import Client
from service.cli.demo import running_service
from service.cli.printing import console
from service.settings import Settings, TrainingSettings

CELLS = ((1, 1), (1, 8), (1, 32), (1, 64), (64, 4), (64, 8))  # images a request, clients
ASKED = 64
TRAINING = {"OUBLI_TRAINING__EPOCHS": "1"}  # prompts cost the same to serve, well trained or not


def measure(images: int = 1000) -> dict[str, Any]:
    """images  contributed and trained on. OUBLI_BENCH_SECONDS: of each cell, 8 unless given."""
    seconds = float(os.environ.get("OUBLI_BENCH_SECONDS", "8"))
    with tempfile.TemporaryDirectory(prefix="oubli-serving-") as name:
        return _measure(images, seconds, Path(name))


def _measure(images: int, seconds: float, folder: Path) -> dict[str, Any]:
    data, contributed, held_out = pictures.load(images, 4 * ASKED)
    pngs = [item.png() for item in held_out]
    figures: dict[str, Any] = {"data": data, "images": images, "seconds": seconds, "missing": [], "failed": {}}
    figures["pinned"] = load.cores()[0] is not None
    model_path, rows = folder / "model.safetensors", {}
    with ExitStack() as stack:
        with running_service(0, TRAINING) as (client, url, data_dir):
            contribute(client, contributed)
            figures["clusters"] = len(wait_until_served(client))
            figures["prompts"] = two_pass.export(
                Settings(data_dir=data_dir, training=TrainingSettings(epochs=1)), model_path
            )
            asked, expected, figures["tiers"] = _certain_of_ours(client, pngs)
            figures["raw"] = raw.measure(model_path, seconds=seconds / 8)
            limit = stack.enter_context(raw.Limit(model_path, raw.Way(*figures["raw"]["two_pass"]["way"])))
            measured = Measured(folder, seconds, limit)
            port = int(url.rsplit(":", 1)[1])
            rows["ours"] = measured.cells(port, lambda n: multipart(port, asked, expected, n, key=client.key))
        # Ours has ended: no server is measured beside another.
        asked, expected = _certain_of_two_pass(model_path, pngs)
        for name in _chosen():
            interpreter = peers.python(name)
            if interpreter is None:
                figures["missing"].append(name)
                continue
            given = multipart if name == "fastapi" else _json
            try:
                with _running(name, model_path, interpreter) as port:
                    rows[name] = measured.cells(port, lambda n, p=port, g=given: g(p, asked, expected, n))
            except RuntimeError as error:  # shown: the others are measured all the same
                figures["failed"][name] = str(error)
    figures["rows"], figures["load"] = rows, os.getloadavg()[0]
    _require_right_answers(rows)
    return figures


def _chosen() -> list[str]:
    """All peers, or those that OUBLI_BENCH_PEERS names, separated by commas."""
    return [name for name in os.environ.get("OUBLI_BENCH_PEERS", ",".join(peers.NAMES)).split(",") if name]


@dataclass(frozen=True)
class Measured:
    """Each cell beside the raw limit just before and after it, while the server idles."""

    folder: Path
    seconds: float
    limit: raw.Limit

    def cells(self, port: int, requests: Callable[[int], list[load.Asked]]) -> dict[str, Any]:
        """Of one server."""
        cells, before = {}, self.limit.measure(self.seconds / 4)
        for count, clients in CELLS:
            job = load.Job(port, clients, self.seconds, max(1.0, self.seconds / 8), requests(count))
            figures = load.finish(load.start(job, self.folder))
            after = self.limit.measure(self.seconds / 4)
            cell = {name: said for name, said in figures.items() if name != "events"}
            cell["raw"], cell["raws"] = (before + after) / 2, [before, after]
            cell["of_raw"], before = cell["images_per_second"] / cell["raw"], after
            cells[f"{count} x {clients}"] = cell
            console.print(f"port {port}, {count} x {clients}: {cell['images_per_second']:.0f} of {cell['raw']:.0f}/s")
        return cells


def _require_right_answers(rows: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = {f"{name}, {cell}": c["wrong"] for name, row in rows.items() for cell, c in row.items() if c["mismatches"]}
    if wrong:
        raise SystemExit(f"Answers other than the expected: {wrong}")


def _certain_of_ours(client: Client, pngs: Sequence[bytes]) -> tuple[list[bytes], list[str], dict[str, int]]:
    """Images that a calm service answers surely, their labels, and how many were answered by which tier."""
    asked, expected, tiers = [], [], Counter[str]()
    for png in pngs:
        (said,) = client.request("POST", "/predict", files=[("image", ("image.png", png))])["predictions"]
        scores = [row["score"] for row in said["scores"]]
        if len(scores) < 2 or scores[0] - scores[1] > two_pass.MARGIN:
            asked.append(png)
            expected.append(said["label"])
            tiers[said["tier"]] += 1
        if len(asked) == ASKED:
            break
    return asked, expected, dict(tiers)


def _certain_of_two_pass(path: Path, pngs: Sequence[bytes]) -> tuple[list[bytes], list[str]]:
    """The same of the model that the peers serve."""
    model = two_pass.load(path, threads=raw.THREADS)
    tensors = [model.prepare(png) for png in pngs]
    if not two_pass.same_embeddings(model, tensors[:ASKED]):
        raise SystemExit("The peers' model does not embed as the service does: nothing to compare.")
    found = zip(pngs, model.label(tensors), model.sure(tensors), strict=True)
    sure = [(png, label) for png, label, certain in found if certain][:ASKED]
    return [png for png, _ in sure], [label for _, label in sure]


def _groups(asked: Sequence[bytes], expected: Sequence[str], count: int) -> Iterator[tuple[list[bytes], list[str]]]:
    """Requests of so many images."""
    for start in range(0, len(asked), count):
        places = [(start + i) % len(asked) for i in range(count)]
        yield [asked[i] for i in places], [expected[i] for i in places]


def multipart(
    port: int, asked: Sequence[bytes], expected: Sequence[str], count: int, *, key: str | None = None
) -> list[load.Asked]:
    kind = "multipart/form-data; boundary=oubli"
    head = (
        b'--oubli\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    made: list[load.Asked] = []
    for pngs, labels in _groups(asked, expected, count):
        body = b"".join(head + png + b"\r\n" for png in pngs) + b"--oubli--\r\n"
        made.append((request("/predict", body, kind, port=port, key=key), labels))
    return made


def _json(port: int, asked: Sequence[bytes], expected: Sequence[str], count: int) -> list[load.Asked]:
    made: list[load.Asked] = []
    for pngs, labels in _groups(asked, expected, count):
        body = json.dumps({"images": [base64.b64encode(png).decode() for png in pngs]}).encode()
        made.append((request("/predict", body, "application/json", port=port), labels))
    return made


@contextmanager
def _running(name: str, model: Path, interpreter: str) -> Iterator[int]:
    """Its port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = peers.start(name, model, port, interpreter)
    try:
        _wait(name, process, port, model.with_name(f"{name}.log"))
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it answers one image."""
    _, _, held_out = pictures.load(0, 1)
    maker = multipart if name == "fastapi" else _json
    (sent, _), *_ = maker(port, [held_out[0].png()], [""], 1)
    job = load.Job(port, 1, 0.2, 0.0, [(sent, ())])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if asyncio.run(load.run(job))["requests"]:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{name} does not answer: {log.read_text(errors='replace')[-2000:]}")


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    cells = [f"{count} x {clients}" for count, clients in CELLS]
    table = Table("", *cells, title="images/s (share of the raw limit); p50 / p95 / p99 ms; images a request x clients")
    for name, row in figures["rows"].items():
        table.add_row("Oubli" if name == "ours" else peers.TITLES[name], *(_cell(row[c]) for c in cells))
    console.print(table)
    raws = [rate for row in figures["rows"].values() for cell in row.values() for rate in cell["raws"]]
    best = {passes: figures["raw"][passes] for passes in ("two_pass", "one_pass")}
    for passes, found in best.items():
        console.print(f"Raw limit, {passes}: {found['images_per_second']:.0f} images/s by {found['how']}")
    console.print(
        f"During the run: {min(raws):.0f} to {max(raws):.0f}; a share is of the limit before and after its cell."
    )
    console.print("Ours also asks the registry twice a batch and")
    console.print(
        f"computes the closed form; peers do neither. Ours answered by {figures['tiers']}; load {figures['load']:.1f}."
    )
    if not figures["pinned"]:
        console.print("Fewer than 4 cores: the load generator shares them with the server.")
    for name in figures["missing"]:
        console.print(f"Not measured, since it is not installed (make bench-peers): {peers.TITLES[name]}")
    for error in figures["failed"].values():
        console.print(f"Not measured: {error}", markup=False)


def _cell(cell: Mapping[str, Any]) -> str:
    times = " / ".join("-" if cell[f"p{p}_ms"] is None else f"{cell[f'p{p}_ms']:.0f}" for p in (50, 95, 99))
    errors = f"\nerrors {cell['errors']}" if cell["errors"] else ""
    return f"{cell['images_per_second']:.0f} ({cell['of_raw']:.0%})\n{times}{errors}"

"""One table: the raw limit, ours, and every peer that is installed; the same client, images and model, in one run.

The raw limit is measured before and after, since the machine is seldom quiet: ratios are to the mean, and the spread
stands beside them. A peer does less than ours: it asks no registry whether a prompt was withdrawn, and computes no
closed form.
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
from contextlib import contextmanager
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
from service.cli.desk import console
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
    with running_service(0, TRAINING) as (client, url, data_dir):
        contribute(client, contributed)
        figures["clusters"] = len(wait_until_served(client))
        figures["prompts"] = two_pass.export(
            Settings(data_dir=data_dir, training=TrainingSettings(epochs=1)), model_path
        )
        asked, expected, tiers = _certain_of_ours(client, pngs)
        figures["tiers"] = tiers
        figures["raw"] = [raw.measure(model_path, seconds=seconds / 8)]
        port = int(url.rsplit(":", 1)[1])
        rows["ours"] = _cells(lambda n: multipart(port, asked, expected, n, key=client.key), port, seconds, folder)
    # Ours has ended: nobody is measured beside another.
    asked, expected = _certain_of_two_pass(model_path, pngs)
    for name in _chosen():
        interpreter = peers.python(name)
        if interpreter is None:
            figures["missing"].append(name)
            continue
        given = multipart if name == "fastapi" else _json
        try:
            with _running(name, model_path, interpreter) as port:
                rows[name] = _cells(lambda n, p=port, g=given: g(p, asked, expected, n), port, seconds, folder)
        except RuntimeError as error:  # shown: the others are measured all the same
            figures["failed"][name] = str(error)
    figures["raw"].append(raw.measure(model_path, seconds=seconds / 8))
    figures["rows"], figures["load"] = rows, os.getloadavg()[0]
    limits = [each["two_pass"]["images_per_second"] for each in figures["raw"]]
    figures["raw_images_per_second"] = sum(limits) / len(limits)
    figures["raw_spread"] = (max(limits) - min(limits)) / figures["raw_images_per_second"]
    _require_right_answers(rows)
    return figures


def _chosen() -> list[str]:
    """All peers, or those that OUBLI_BENCH_PEERS names, separated by commas."""
    return [name for name in os.environ.get("OUBLI_BENCH_PEERS", ",".join(peers.NAMES)).split(",") if name]


def _cells(requests: Callable[[int], list[load.Asked]], port: int, seconds: float, folder: Path) -> dict[str, Any]:
    cells = {}
    for count, clients in CELLS:
        job = load.Job(port, clients, seconds, max(1.0, seconds / 8), requests(count))
        figures = load.finish(load.start(job, folder))
        cells[f"{count} x {clients}"] = cell = {name: said for name, said in figures.items() if name != "events"}
        console.print(f"port {port}, {count} x {clients}: {cell['images_per_second']:.0f} images/s")
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
    limit, cells = figures["raw_images_per_second"], [f"{count} x {clients}" for count, clients in CELLS]
    table = Table("", *cells, title="images/s (share of the raw limit); p50 / p95 / p99 ms; images a request x clients")
    one = sum(each["one_pass"]["images_per_second"] for each in figures["raw"]) / len(figures["raw"])
    table.add_row("raw, two passes", f"{limit:.0f}", f"spread {figures['raw_spread']:.0%}")
    table.add_row("raw, one pass", f"{one:.0f}")
    for name, row in figures["rows"].items():
        table.add_row("Oubli" if name == "ours" else peers.TITLES[name], *(_cell(row[c], limit) for c in cells))
    console.print(table)
    console.print(f"Raw limit by {figures['raw'][0]['two_pass']['how']}. Ours also asks the registry twice a batch and")
    console.print(
        f"computes the closed form; peers do neither. Ours answered by {figures['tiers']}; load {figures['load']:.1f}."
    )
    if not figures["pinned"]:
        console.print("Fewer than 4 cores: the load generator shares them with the server.")
    for name in figures["missing"]:
        console.print(f"Not measured, since it is not installed (make bench-peers): {peers.TITLES[name]}")
    for error in figures["failed"].values():
        console.print(f"Not measured: {error}", markup=False)


def _cell(cell: Mapping[str, Any], limit: float) -> str:
    times = " / ".join("-" if cell[f"p{p}_ms"] is None else f"{cell[f'p{p}_ms']:.0f}" for p in (50, 95, 99))
    errors = f"\nerrors {cell['errors']}" if cell["errors"] else ""
    return f"{cell['images_per_second']:.0f} ({cell['images_per_second'] / limit:.0%})\n{times}{errors}"

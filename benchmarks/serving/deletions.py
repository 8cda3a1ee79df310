"""Deleting under full predict load: what DELETE costs, and that no prompt it withdrew answers anything asked after it.

32 clients ask for predictions throughout, and each answer is kept with when it was asked for and which prompts it
names. A violation is an answer, asked for after a DELETE was answered, that names the prompt it withdrew.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import images as pictures
from benchmarks.main_path import wait_until_served
from benchmarks.service_deletions import contribute, quantiles
from benchmarks.serving import load
from benchmarks.serving.table import TRAINING, multipart
from service.cli.client import Client
from service.cli.demo import running_service
from service.cli.printing import console, progress_bar

CLIENTS = 32
IDLE = 100  # deletions while no client asks
SPARE = 500  # samples that stay
LONGEST = 3600.0

Deleted = tuple[float, float, list[tuple[str, str]]]  # sent, answered (monotonic), clusters and prompts withdrawn


def measure(images: int = 1000) -> dict[str, Any]:
    """images  how many deletions under load."""
    _, contributed, held_out = pictures.load(IDLE + images + SPARE, 64)
    if len(contributed) < IDLE + images:
        raise SystemExit(f"There are only {len(contributed)} images: ask for fewer deletions (--images).")
    with running_service(0, TRAINING) as (client, url, _), tempfile.TemporaryDirectory(prefix="oubli-load-") as name:
        ids, port, stop = contribute(client, contributed), int(url.rsplit(":", 1)[1]), Path(name) / "stop"
        wait_until_served(client)
        idle = _delete(client, ids[:IDLE], "Deleting, idle")
        wait_until_served(client)
        pngs = [item.png() for item in held_out]
        asked = [(sent, ()) for sent, _ in multipart(port, pngs, [""] * len(pngs), 1, key=client.key)]
        job = load.Job(port, CLIENTS, LONGEST, 0.0, asked, record=True, until_file_exists=str(stop))
        process = load.start(job, Path(name))
        try:
            time.sleep(5)  # until all of them ask
            busy = _delete(client, ids[IDLE : IDLE + images], "Deleting, under load")
            time.sleep(2)
        finally:
            stop.touch()
            figures = load.finish(process)
    events = figures.pop("events")
    before, under = (quantiles([answered - sent for sent, answered, _ in each]) for each in (idle, busy))
    withdrawals = withdrawn_after(events, busy)
    return {
        "deletions": len(busy),
        "prompts_withdrawn": sum(len(gone) for _, _, gone in busy),
        "answers": len(events),
        "errors": figures["errors"],
        "idle": before,
        "under_load": under,
        "p99_ratio": under["p99_ms"] / before["p99_ms"],
        "violations": violations(events, busy),
        "time_to_withdraw": quantiles(withdrawals) if withdrawals else None,
        "seen_withdrawn": len(withdrawals),
        "load": os.getloadavg()[0],
    }


def _delete(client: Client, ids: Sequence[str], title: str) -> list[Deleted]:
    deleted: list[Deleted] = []
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(ids))
        for sample_id in ids:
            deleted.append(delete(client, sample_id))
            bar.advance(task)
    return deleted


def delete(client: Client, sample_id: str) -> Deleted:
    """When it was asked for and answered, and what it withdrew."""
    sent = time.monotonic()
    erasure = client.request("DELETE", f"/samples/{sample_id}")
    answered = time.monotonic()
    return sent, answered, [(c["cluster"], c["prompt_before"]) for c in erasure["clusters"] if c["prompt_before"]]


def violations(events: Sequence[Any], deleted: Sequence[Deleted]) -> int:
    """Answers to what was asked after a DELETE's answer that name the prompt it withdrew.

    A key comes back only with the very samples it was built from, and no client contributes any here.
    """
    gone_at: dict[str, float] = {}
    for _, answered, gone in deleted:
        for _, key in gone:
            gone_at[key] = min(answered, gone_at.get(key, answered))
    never = float("inf")
    return sum(began > gone_at.get(key, never) for began, _, seen in events for _, key in seen)


def withdrawn_after(events: Sequence[Any], deleted: Sequence[Deleted]) -> list[float]:
    """Seconds from each DELETE to the first answer of that cluster without the prompt, if that had answered before."""
    by_cluster: dict[str, list[tuple[float, str | None]]] = defaultdict(list)
    first_named: dict[str, float] = {}
    for _, ended, seen in sorted(events, key=lambda event: event[1]):
        for cluster, key in seen:
            by_cluster[cluster].append((ended, key))
            if key is not None:
                first_named.setdefault(key, ended)
    found = []
    for sent, _, gone in deleted:
        for cluster, key in gone:
            if first_named.get(key, sent) < sent:
                after = (ended - sent for ended, named in by_cluster[cluster] if ended > sent and named != key)
                found += [seconds for seconds in [next(after, None)] if seconds is not None]
    return found


def show(figures: dict[str, Any]) -> None:
    """As a table. Ends with an error if a withdrawn prompt has answered."""
    table = Table("", "p50, ms", "p99, ms", title=f"{figures['deletions']:,} deletions, {CLIENTS} clients predicting")
    for name in ("idle", "under_load", "time_to_withdraw"):
        if figures[name] is not None:
            table.add_row(name.replace("_", " "), f"{figures[name]['p50_ms']:.1f}", f"{figures[name]['p99_ms']:.1f}")
    console.print(table)
    console.print(
        f"p99 under load / idle {figures['p99_ratio']:.2f}; {figures['prompts_withdrawn']} prompts withdrawn, "
        f"{figures['violations']} violations in {figures['answers']:,} answers; errors {figures['errors']}"
    )
    if figures["violations"]:
        raise SystemExit("A withdrawn prompt has answered.")

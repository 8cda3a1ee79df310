"""The load generator, a process of its own: `python -m benchmarks.serving.load JOB` prints figures as JSON.

A closed loop: each of `clients` connections sends its next request when it has its answer. Requests cycle through those
of the job. What ends during the warm-up, or after the time, is checked and not counted. Every answer is checked: a
label that is not the expected one is a mismatch, and the process ends with 1.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.http import Connection

Asked = tuple[bytes, Sequence[str]]  # a request's bytes, and the labels its answer must have; none: unchecked


@dataclass(frozen=True)
class Job:
    """What is asked of whom.

    record  keep [began, ended, [[cluster, prompt], ...]] of each answer, monotonic seconds.
    """

    port: int
    clients: int
    seconds: float
    warm_up: float
    requests: Sequence[Asked]
    record: bool = False
    until_file_exists: str | None = None  # ends sooner


@dataclass
class Tally:
    """What was seen."""

    images: int = 0
    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    mismatches: int = 0
    wrong: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


async def run(job: Job) -> dict[str, Any]:
    """Put the load on; the figures."""
    tally, began = Tally(), time.monotonic()
    measured_from, ends = began + job.warm_up, began + job.warm_up + job.seconds
    turns = itertools.cycle(job.requests)
    await asyncio.gather(*(_client(job, turns, tally, measured_from, ends) for _ in range(job.clients)))
    took = max(min(time.monotonic(), ends) - measured_from, 1e-9)
    names = {f"p{percent}_ms": percentile(tally.milliseconds, percent) for percent in (50, 95, 99)}
    return {
        "images_per_second": tally.images / took,
        "requests": len(tally.milliseconds),
        **names,
        "errors": dict(tally.errors),
        "mismatches": tally.mismatches,
        "wrong": tally.wrong,
        "events": tally.events,
    }


async def _client(job: Job, turns: Iterator[Asked], tally: Tally, measured_from: float, ends: float) -> None:
    connection = Connection()
    connection.closed = True
    loop = asyncio.get_running_loop()
    while (began := time.monotonic()) < ends:
        if job.until_file_exists and Path(job.until_file_exists).exists():
            break
        sent, expected = next(turns)
        try:
            if connection.closed:
                _, connection = await loop.create_connection(Connection, "127.0.0.1", job.port)
            answer = await asyncio.wait_for(connection.ask(sent), 60)
        except (OSError, TimeoutError) as error:
            tally.errors[type(error).__name__] += 1
            connection.close()
            await asyncio.sleep(0.05)
            continue
        ended = time.monotonic()
        if answer.status != 200:
            tally.errors[f"{answer.status} {_reason(answer.body)}".strip()] += 1
            await asyncio.sleep(0.01)  # one that is refused does not come back at once
            continue
        found = _rows(answer.body)
        _check(tally, found, expected)
        if job.record:
            tally.events.append([began, ended, [[row.get("cluster"), row.get("prompt")] for row in found]])
        if measured_from <= ended <= ends:  # in a closed loop as many end in a while as begin in it
            tally.images += len(found)
            tally.milliseconds.append((ended - began) * 1000.0)
    connection.close()


def _reason(body: bytes) -> str:
    """The detail of a problem (RFC 9457), shortened; nothing of another answer."""
    try:
        return str(json.loads(body)["detail"])[:120]
    except (ValueError, KeyError, TypeError):
        return ""


def _check(tally: Tally, found: Sequence[dict[str, Any]], expected: Sequence[str]) -> None:
    labels = [row["label"] for row in found]
    if expected and labels != list(expected):
        pairs = itertools.zip_longest(labels, expected)
        tally.mismatches += sum(label != wanted for label, wanted in pairs)
        if len(tally.wrong) < 5:
            tally.wrong.append(f"{labels[:4]} for {list(expected)[:4]}")


def _rows(body: bytes) -> list[dict[str, Any]]:
    """Ours is {"predictions": [{"label"}]}; peers may answer with a bare list of labels."""
    found = json.loads(body)
    rows = found["predictions"] if isinstance(found, dict) else found
    return [row if isinstance(row, dict) else {"label": row} for row in rows]


def cores() -> tuple[set[int] | None, set[int] | None]:
    """For the server and for the load; (None, None) where there are too few to part them."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (set(usable[:-1]), {usable[-1]}) if len(usable) >= 4 else (None, None)


def start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    """The generator in a process of its own; `finish` waits for it."""
    path = Path(tempfile.mkstemp(suffix=".json", dir=folder)[1])
    given = asdict(job) | {"requests": [[base64.b64encode(sent).decode(), list(want)] for sent, want in job.requests]}
    path.write_text(json.dumps(given))
    # Not by a pipe: a long record would fill it while no process reads.
    with path.with_suffix(".out").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.serving.load", str(path)], stdout=out)
    process.job_path = path  # type: ignore[attr-defined]
    return process


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Its figures."""
    process.wait()
    path: Path = process.job_path  # type: ignore[attr-defined]
    text = path.with_suffix(".out").read_text()
    if not text:
        raise RuntimeError("the load generator has failed; its messages are above")
    figures: dict[str, Any] = json.loads(text)
    return figures


def main() -> int:
    """Run the job of a file."""
    given = json.loads(Path(sys.argv[1]).read_text())
    given["requests"] = [(base64.b64decode(sent), wanted) for sent, wanted in given["requests"]]
    if (mine := cores()[1]) is not None:
        os.sched_setaffinity(0, mine)
    figures = asyncio.run(run(Job(**given)))
    print(json.dumps(figures))
    return 1 if figures["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())

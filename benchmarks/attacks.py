"""What one client's costly requests cost all others: how long they wait, and how much memory the service takes.

Each attack is repeated for ATTACK_SECONDS; a single request that takes longer is given up after CAP_SECONDS. Meanwhile
others ask at a steady pace, whether or not they have been answered: a service that is silent for a minute has not one
late answer but many. Who is not answered within PATIENCE seconds counts as failed, and as having waited so long.

`OUBLI_BENCH_BEFORE=DIR` names the working tree of another release (`git worktree add DIR REVISION`); each attack then
meets both, one after the other, so that the machine is the same.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image
from rich.table import Table

from benchmarks.serving.load import percentile
from service.cli.printing import console
from tests.integration.harness import REPOSITORY, TINY, Service, digit_pictures, environment
from tests.odd_files import scans

ATTACK_SECONDS, CAP_SECONDS, PATIENCE = 20.0, 60.0, 10.0
EVERY = 0.25  # seconds between two requests of the same kind
DELETE_EVERY = 1.0
UPLOADS = 45  # at once
SAMPLE_EVERY = 0.05  # seconds between two looks at the memory

Parts = Sequence[bytes]  # of one request, each sent PAUSE seconds after the other
PAUSE = 1.0


@dataclass(frozen=True)
class Attack:
    """What is sent again and again, by so many at once.

    request  its parts, with this key.
    scope    of the attacker's key; None: it has none.
    probes   what others ask meanwhile.
    """

    words: str
    request: Callable[[str], Parts]
    scope: str | None
    probes: Sequence[str]
    senders: int = 1


@dataclass
class Tally:
    """How others fared."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    attacked: Counter[str] = field(default_factory=Counter)  # the attacker's answers, by status
    memory: int = 0  # bytes, at most


def measure(images: int = UPLOADS) -> dict[str, Any]:
    """`images` is how many uploads come at once."""
    trees = {"now": REPOSITORY}
    if before := os.environ.get("OUBLI_BENCH_BEFORE"):
        trees = {"before": Path(before).resolve(), **trees}
    rows = []
    for attack in attacks(images):
        for name, tree in trees.items():
            console.print(f"{attack.words}: {name} ...")
            rows += [{"attack": attack.words, "tree": name, **row} for row in _meet(attack, tree)]
    return {"rows": rows, "uploads": images, "load": os.getloadavg()[0]}


def attacks(uploads: int) -> list[Attack]:
    """The four that silenced others once."""
    others = ("GET /status", "POST /predict")
    erasing = ("DELETE /owners", "GET /status", "GET /samples")
    return [
        Attack("150 MB of JSON to POST /erasures, no key", _json, None, others),
        Attack("4 JPEGs of 3,000 scans (48 MP) at once to POST /predict", _bomb, "predict", others, senders=4),
        Attack("20 plain PPMs in one POST /predict", _plain, "predict", others),
        Attack(f"{uploads} slow uploads of 24 MP at once", _upload, "samples", erasing, senders=uploads),
    ]


# --------------------------------------------------------------------------------------------------------- requests


def _json(key: str) -> Parts:
    return [_post("/erasures", key, "application/json", b'{"samples": [' + b"{}," * 50_000_000 + b"{}]}")]


def _bomb(key: str) -> Parts:
    return [_post("/predict", key, "image/jpeg", scans(3_000, width=8_000, height=6_000))]


def _plain(key: str) -> Parts:
    side = 820
    return [_form("/predict", key, "image", [b"P3\n%d %d\n255\n" % (side, side) + b"1 " * (side * side * 3)] * 20)]


def _upload(key: str) -> Parts:
    """A PNG, which no decoder can reduce while it reads. Half of it at once, the rest bit by bit."""
    file = io.BytesIO()
    rows = np.arange(4_000, dtype=np.uint16)[:, None, None] + np.arange(6_000, dtype=np.uint16)[None, :, None]
    Image.fromarray((rows + np.zeros(3, np.uint16)).astype(np.uint8)).save(file, "PNG", compress_level=1)
    whole = _form("/samples", key, "image", [file.getvalue()], {"label": "a", "owner": "attacker"})
    cuts = [0, *(len(whole) * part // 8 for part in (4, 5, 6, 7)), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(cuts)]


def _post(path: str, key: str, kind: str, body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: oubli", "Connection: close", f"Content-Type: {kind}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _form(path: str, key: str, name: str, files: Sequence[bytes], words: dict[str, str] | None = None) -> bytes:
    said = [(f'name="{name}"; filename="a"', data) for data in files]
    said += [(f'name="{word}"', text.encode()) for word, text in (words or {}).items()]
    parts = [b"--cut\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (a.encode(), data) for a, data in said]
    return _post(path, key, "multipart/form-data; boundary=cut", b"".join(parts) + b"--cut--\r\n")


# --------------------------------------------------------------------------------------------------------- one meeting


def _meet(attack: Attack, tree: Path) -> list[dict[str, Any]]:
    with _running(tree) as service:
        parts = attack.request(_key(service, attack.scope) if attack.scope else "")
        api = service.child("api")
        quiet = _memory(api)
        tally, over = Tally(), threading.Event()
        began = time.monotonic()
        with ThreadPoolExecutor(1 + len(attack.probes)) as watchers:
            watched = [watchers.submit(_watch, api, tally, over)]
            watched += [watchers.submit(_ask, service, probe, tally, over) for probe in attack.probes]
            with ThreadPoolExecutor(attack.senders) as senders:
                for _ in range(attack.senders):
                    senders.submit(_send, service.port, parts, tally, began)
            lasted = time.monotonic() - began
            over.set()
            for each in watched:
                each.result()
    shared = {
        "lasted_s": lasted,
        "attack_answers": dict(tally.attacked),
        "memory_before_mb": quiet / 1e6,
        "memory_peak_mb": tally.memory / 1e6,
    }
    return [
        {
            "probe": probe,
            "requests": len(seconds),
            "p50_s": percentile(seconds, 50),
            "p99_s": percentile(seconds, 99),
            "max_s": max(seconds),
            "failures": tally.failures[probe],
            **shared,
        }
        for probe in attack.probes
        if (seconds := tally.seconds[probe])
    ]


@contextmanager
def _running(tree: Path) -> Iterator[Service]:
    """With a few samples of each of very many owners, all trained."""
    pictures = digit_pictures(120)
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as name, Service(Path(name), tree=tree) as service:
        service.env = {**TINY, "OUBLI_LOG_LEVEL": "ERROR"}
        service.start()
        service.contribute(pictures, [f"owner-{number}" for number in range(len(pictures))])
        service.settle()
        yield service


def _key(service: Service, scope: str) -> str:
    """One of that scope: the command is the same in every release."""
    command = [sys.executable, "-m", "service.cli", "keys", "create", "--scopes", scope, "--data", str(service.data)]
    done = subprocess.run(
        command, env=environment(service.env), cwd=service.tree, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[-1]


def _send(port: int, parts: Parts, tally: Tally, began: float) -> None:
    while time.monotonic() - began < ATTACK_SECONDS:
        tally.attacked[_sent(port, parts, began + CAP_SECONDS)] += 1


def _sent(port: int, parts: Parts, until: float) -> str:
    """The status of the answer, or what became of the request."""
    try:
        with closing(create_connection(("127.0.0.1", port), timeout=PATIENCE)) as connection:
            for place, part in enumerate(parts):
                if place:
                    time.sleep(PAUSE)
                connection.settimeout(max(0.1, until - time.monotonic()))
                connection.sendall(part)
            connection.settimeout(max(0.1, until - time.monotonic()))
            return connection.recv(65536)[9:12].decode() or "closed"
    except OSError as error:
        return type(error).__name__


def _ask(service: Service, probe: str, tally: Tally, over: threading.Event) -> None:
    """At a steady pace; each request in a thread of its own."""
    method, path = probe.split()
    every = DELETE_EVERY if method == "DELETE" else EVERY
    file = {"image": ("digit.png", digit_pictures(1)[0].data)}
    seconds = tally.seconds.setdefault(probe, [])

    def once(number: int) -> None:
        there = f"{path}/owner-{number}" if method == "DELETE" else path
        sent: dict[str, Any] = {"files": file} if method == "POST" else {}
        began = time.monotonic()
        try:
            answer = client.request(method, there, **sent)
            good = answer.is_success
        except httpx.HTTPError:
            good = False
        took = min(time.monotonic() - began, PATIENCE)
        seconds.append(took)
        tally.failures[probe] += not good

    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=8)
    bearer = {"Authorization": f"Bearer {service.key}"}
    with (
        httpx.Client(base_url=service.url, headers=bearer, timeout=PATIENCE, limits=unlimited) as client,
        ThreadPoolExecutor(int(PATIENCE / every) + 8) as threads,
    ):
        for number in itertools.count():
            threads.submit(once, number)
            if over.wait(every):
                break


def _watch(api: psutil.Process, tally: Tally, over: threading.Event) -> None:
    while not over.wait(SAMPLE_EVERY):
        tally.memory = max(tally.memory, _memory(api))


def _memory(api: psutil.Process) -> int:
    """Bytes that it and the processes below it have in memory."""
    found = 0
    for process in (api, *api.children(recursive=True)):
        try:
            found += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found


def show(figures: dict[str, Any]) -> None:
    """The table."""
    table = Table("attack", "tree", "who waits", "requests", "p50", "p99", "longest", "failed", "memory", "its answers")
    for row in figures["rows"]:
        table.add_row(
            row["attack"],
            row["tree"],
            row["probe"],
            str(row["requests"]),
            *(f"{row[name]:.2f} s" for name in ("p50_s", "p99_s", "max_s")),
            str(row["failures"]),
            f"{row['memory_before_mb']:.0f} → {row['memory_peak_mb']:.0f} MB",
            json.dumps(row["attack_answers"]),
        )
    console.print(table)

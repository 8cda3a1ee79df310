"""What the fence costs: the one row that is read before a batch and again before its answers leave.

Beside it, in the same run, the batch itself: one and 32 images through both passes of the default backbone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from models import determinism
from models.backbone import load_backbone
from models.embedding import describe
from service.registry import state
from service.registry.engine import Registry, migrate
from tests.servers import fresh_database, postgres

TIMES = 2_000
BATCHES = (1, 32)


def measure(images: int = TIMES) -> dict[str, Any]:
    """images  how often the row is read."""
    determinism.configure(threads=2, device="cpu")
    figures: dict[str, Any] = {"reads": images}
    with tempfile.TemporaryDirectory(prefix="oubli-fence-") as folder:
        figures["sqlite_ms"] = _glances(f"sqlite:///{Path(folder) / 'registry.db'}", images)
    with postgres() as server, fresh_database(server) as url:
        figures["postgresql_ms"] = _glances(url, images)
    backbone = load_backbone("efficientnet-lite0")
    for count in BATCHES:
        batch = [torch.zeros((3, backbone.input_size, backbone.input_size), dtype=torch.uint8)] * count
        figures[f"pass_of_{count}_ms"] = _milliseconds(lambda given=batch: describe(backbone, given), 30)
    return figures


def _glances(url: str, times: int) -> dict[str, float]:
    migrate(url)
    with closing(Registry(url)) as registry:
        with registry.write() as session:
            state.ensure(session)

        def glance() -> None:
            with registry.read_one() as session:
                state.fence(session)

        return _milliseconds(glance, times)


def _milliseconds(work: Callable[[], object], times: int) -> dict[str, float]:
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return {f"p{q}": float(np.percentile(np.array(seconds) * 1000.0, q)) for q in (50, 99)}


def show(figures: dict[str, Any]) -> None:
    """As a table: a batch asks twice, and passes the backbone up to twice."""
    table = Table("", "p50, ms", "p99, ms", title="What the fence costs")
    for name, found in figures.items():
        if isinstance(found, dict):
            table.add_row(name.removesuffix("_ms").replace("_", " "), f"{found['p50']:.3f}", f"{found['p99']:.3f}")
    Console().print(table)

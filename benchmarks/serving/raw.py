"""The raw limit: the bare two-pass (and one-pass) model in a loop on ready tensors, at its best batch and threads.

`python -m benchmarks.serving.raw MODEL THREADS SECONDS` prints images a second by pass and batch. Two processes of one
thread each are tried beside one of two: without a server there is no reason to prefer either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCHES = (1, 8, 16, 32, 64)
THREADS = 2


def measure(model: Path, *, seconds: float) -> dict[str, Any]:
    """Images a second at best, how it was reached, and all that was tried; `seconds` for each batch."""
    tried: dict[str, dict[str, float]] = {"two_pass": {}, "one_pass": {}}
    for processes, threads in ((1, THREADS), (THREADS, 1)):
        command = [sys.executable, "-m", "benchmarks.serving.raw", str(model), str(threads), str(seconds)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        figures = [json.loads(process.communicate()[0]) for process in running]
        for passes, found in tried.items():
            for batch in figures[0][passes]:
                name = f"{processes} x {threads} thread(s), batch {batch}"
                found[name] = sum(each[passes][batch] for each in figures)
    return {passes: _best(found) | {"tried": found} for passes, found in tried.items()}


def _best(found: dict[str, float]) -> dict[str, Any]:
    how = max(found, key=lambda name: found[name])
    return {"images_per_second": found[how], "how": how}


def rates(work: Callable[[Tensor], object], size: int, seconds: float, wait: Callable[[], None]) -> dict[str, float]:
    """Images a second by batch size. `wait` until the device has done what it was given."""
    found = {}
    for batch in BATCHES:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        for _ in range(3):
            work(images)
        wait()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work(images)
            count += batch
        wait()
        found[str(batch)] = count / (time.perf_counter() - began)
    return found


def main() -> None:
    """Of one process."""
    from benchmarks.serving import two_pass

    path, threads, seconds = sys.argv[1:]
    model = two_pass.load(Path(path), threads=int(threads))
    works: dict[str, Callable[[Tensor], object]] = {"two_pass": model.probabilities, "one_pass": model.one_pass}
    size = model.backbone.input_size
    print(json.dumps({name: rates(work, size, float(seconds), lambda: None) for name, work in works.items()}))


if __name__ == "__main__":
    main()

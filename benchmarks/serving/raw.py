"""The raw limit: the bare two-pass (and one-pass) model in a loop on ready tensors, at its best batch and threads.

`python -m benchmarks.serving.raw MODEL THREADS SECONDS` prints images a second by pass and batch. Two processes of one
thread each are tried beside one of two: without a server there is no reason to prefer either. What was best is then
measured again before and after each cell (`Limit`): a shared machine's speed changes within seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

BATCHES = (1, 8, 16, 32, 64)
THREADS = 2


class Way(NamedTuple):
    """So many processes side by side, each of so many threads, and the images of a batch."""

    processes: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} thread(s), batch {self.batch}"


def measure(model: Path, *, seconds: float) -> dict[str, Any]:
    """Images a second at best, how it was reached, and all that was tried; `seconds` for each batch."""
    tried: dict[str, dict[Way, float]] = {"two_pass": {}, "one_pass": {}}
    for processes, threads in ((1, THREADS), (THREADS, 1)):
        running = [_start(model, threads, str(seconds)) for _ in range(processes)]
        figures = [json.loads(process.communicate()[0]) for process in running]
        for passes, found in tried.items():
            for batch in BATCHES:
                found[Way(processes, threads, batch)] = sum(each[passes][str(batch)] for each in figures)
    return {passes: _best(found) for passes, found in tried.items()}


def _best(found: dict[Way, float]) -> dict[str, Any]:
    way = max(found, key=lambda way: found[way])
    tried = {str(way): rate for way, rate in found.items()}
    return {"images_per_second": found[way], "how": str(way), "way": list(way), "tried": tried}


def _start(model: Path, threads: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.serving.raw", str(model), str(threads), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Limit:
    """Processes that hold the two-pass model ready, compute when they are asked to, and else wait."""

    def __init__(self, model: Path, way: Way) -> None:
        self._running = [_start(model, way.threads, "when-asked", str(way.batch)) for _ in range(way.processes)]

    def measure(self, seconds: float) -> float:
        """Images a second, now."""
        for process in self._running:
            assert process.stdin is not None
            print(seconds, file=process.stdin, flush=True)
        return sum(float(process.stdout.readline()) for process in self._running if process.stdout is not None)

    def __enter__(self) -> Self:
        self.measure(0.1)  # until they are ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.communicate()  # at the end of what it is asked it ends


def rates(
    work: Callable[[Tensor], object],
    size: int,
    seconds: float,
    wait: Callable[[], None],
    batches: Sequence[int] = BATCHES,
) -> dict[str, float]:
    """Images a second by batch size. `wait` until the device has done what it was given."""
    found = {}
    for batch in batches:
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

    path, threads, seconds, *batch = sys.argv[1:]
    model = two_pass.load(Path(path), threads=int(threads))
    size = model.backbone.input_size

    def rates_of(work: Callable[[Tensor], object], seconds: float, batches: Sequence[int]) -> dict[str, float]:
        return rates(work, size, seconds, lambda: None, batches)

    if seconds == "when-asked":
        for asked in sys.stdin:
            print(*rates_of(model.probabilities, float(asked), [int(batch[0])]).values(), flush=True)
        return
    works: dict[str, Callable[[Tensor], object]] = {"two_pass": model.probabilities, "one_pass": model.one_pass}
    print(json.dumps({name: rates_of(work, float(seconds), BATCHES) for name, work in works.items()}))


if __name__ == "__main__":
    main()

"""A study's tasks over processes: one a device, or one a core. One that fails is named at the end; the others go on."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from service.evaluation.study import Bench, Study, Task

OnSpent = Callable[[Task, int], None]  # sample-epochs that a task has spent

_TICK = 0.2  # seconds between looks at what is done
_bench: Bench
_spent: Any


class Unfinished(RuntimeError):
    """Some tasks failed; what the others found is kept."""


def run_all(study: Study, tasks: Sequence[Task], devices: Sequence[str], advance: OnSpent) -> list[dict[str, Any]]:
    """Figures of every task, in that order. Raises Unfinished.

    devices  one for each process, such as "cpu" twice, or "cuda:0" and "cuda:1".
    """
    context = multiprocessing.get_context("spawn")
    free, spent = context.Queue(), context.Queue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), context, initializer=_begin, initargs=(study, free, spent)) as pool:
        futures = {task: pool.submit(_run, task) for task in tasks}
        try:
            _wait(futures, spent, advance)
        except BaseException:
            _end(pool)
            raise
    failed = [f"{task}: {future.exception()}" for task, future in futures.items() if future.exception() is not None]
    if failed:
        raise Unfinished("\n".join(failed))
    return [future.result() for future in futures.values()]


def _end(pool: ProcessPoolExecutor) -> None:
    """At once: a task can take an hour, and what is done of it is found again."""
    for process in list(pool._processes.values()):
        process.terminate()
    pool.shutdown(cancel_futures=True)


def _begin(study: Study, free: Any, spent: Any) -> None:
    global _bench, _spent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    _bench, _spent = Bench(study, free.get()), spent


def _run(task: Task) -> dict[str, Any]:
    return _bench.run(task, lambda sample_epochs: _spent.put((task, sample_epochs)))


def _wait(futures: dict[Task, Future[dict[str, Any]]], spent: Any, advance: OnSpent) -> None:
    while not all(future.done() for future in futures.values()):
        try:
            advance(*spent.get(timeout=_TICK))
        except queue.Empty:
            continue

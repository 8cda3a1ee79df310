"""Building what survivors imply: parts that are there already are kept, the others are built. As the service does.

With a folder, what was built is found there again by its key: a study that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

from service.evaluation.learners import Learned
from service.evaluation.method import BuiltModels, Method, Part

Spent = Callable[[int], None]  # told of sample-epochs as they are spent


@dataclass(frozen=True)
class Work:
    """What is built now, and what that took, whenever it was done.

    parts  all that there must be.
    new    keys of those that had to be built.
    """

    parts: tuple[Part, ...]
    built: dict[str, Learned]
    new: tuple[str, ...]
    sample_epochs: int
    seconds: float


def build(
    method: Method,
    survivors: Sequence[int],
    *,
    before: BuiltModels | None = None,
    folder: Path | None = None,
    spent: Spent = lambda sample_epochs: None,
) -> Work:
    """Everything that these rows imply, without what is in `before` already."""
    parts = method.parts(survivors)
    known = {part.key: (before or {})[part.key] for part in parts if part.key in (before or {})}
    built, new, seconds = dict(known), [], 0.0
    for part in parts:
        if part.key in built:
            continue
        learned, took = _find(folder, part.key) or _build(method, part, built, folder, spent)
        built[part.key] = learned
        new.append(part.key)
        seconds += took
    sample_epochs = sum(part.sample_epochs for part in parts if part.key in new)
    return Work(tuple(parts), built, tuple(new), sample_epochs, seconds)


def _build(method: Method, part: Part, built: BuiltModels, folder: Path | None, spent: Spent) -> tuple[Learned, float]:
    told = 0

    def progress(done: int, steps: int) -> None:
        nonlocal told
        reached = part.sample_epochs * done // steps
        spent(reached - told)
        told = reached

    started = time.perf_counter()
    learned = method.build(part, built, progress)
    took = time.perf_counter() - started
    if folder is not None:
        _keep(folder, part.key, learned, took)
    return learned, took


def _keep(folder: Path, key: str, learned: Learned, seconds: float) -> None:
    """Whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"labels": json.dumps(learned.labels), "sample_epochs": str(learned.sample_epochs), "seconds": str(seconds)}
    temporary = folder / f".{key}"
    temporary.write_bytes(safetensors.torch.save({n: t.contiguous() for n, t in learned.tensors.items()}, about))
    temporary.replace(folder / f"{key}.safetensors")


def _find(folder: Path | None, key: str) -> tuple[Learned, float] | None:
    path = folder / f"{key}.safetensors" if folder is not None else None
    if path is None or not path.is_file():
        return None
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Learned(tuple(json.loads(about["labels"])), tensors, int(about["sample_epochs"])), float(about["seconds"])

"""Retraining one cluster, beside the bare forward and backward passes of as many sample-epochs.

Both on `training.threads` threads, in the batch size of the settings, through the folded backbone, float32,
deterministic. The bare loop has its batch ready in the network's own layout and asks for nothing but the gradient of
the image: no data, no prompt, no head, no step. They take turns, since the machine is seldom quiet; ratios are of
medians within the run.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.images import load
from models import determinism, memory
from models.backbone import Backbone, load_backbone
from models.spec import TrainingSpec
from models.training import TrainingExample, train
from service.settings import load_settings

ROUNDS = 5
console = Console()


def measure(images: int = 500) -> dict[str, Any]:
    """images  members of the cluster."""
    settings = load_settings()
    memory.keep_freed()
    determinism.configure(threads=settings.training.threads, device="cpu")
    backbone, spec = load_backbone(settings.backbone), settings.training.spec()
    name, chosen, _ = load(images, 0)
    members = [TrainingExample(image.pixels, image.label) for image in chosen]
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(backbone, spec, len(members)),
        "train": lambda: train(backbone, spec, key="retrain", members=members),
    }
    _bare(backbone, spec, spec.batch_size)  # warm
    taken: dict[str, list[float]] = {work: [] for work in works}
    for _ in range(ROUNDS):
        for work, run in works.items():
            started = time.perf_counter()
            run()
            taken[work].append(time.perf_counter() - started)
    medians = {work: statistics.median(seconds) for work, seconds in taken.items()}
    return {
        "data": name,
        "members": len(members),
        "epochs": spec.epochs_of(len(members)),
        "batch": spec.batch_size,
        "threads": settings.training.threads,
        "seconds": taken,
        "bare_seconds": medians["bare"],
        "train_seconds": medians["train"],
        "ratio": medians["train"] / medians["bare"],
    }


def _bare(backbone: Backbone, spec: TrainingSpec, members: int) -> None:
    """As many batches as training takes, the last of each epoch filled up as there."""
    side = backbone.input_size
    ready = torch.randn((spec.batch_size, 3, side, side)).to(memory_format=torch.channels_last).requires_grad_()
    for _ in range(spec.epochs_of(members) * math.ceil(members / spec.batch_size)):
        ready.grad = None
        backbone.features_folded(ready).sum().backward()  # type: ignore[no-untyped-call]


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("", "seconds, median", "all", title=f"{figures['members']} members, {figures['epochs']} epochs")
    for work in ("bare", "train"):
        every = ", ".join(f"{seconds:.1f}" for seconds in figures["seconds"][work])
        table.add_row(work, f"{figures[f'{work}_seconds']:.1f}", every)
    console.print(table)
    console.print(f"Training takes {figures['ratio']:.2f} times the bare passes.")

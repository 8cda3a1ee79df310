"""The two passes on a GPU: the raw limit of a ViT-B/16 as large as vit-b-22k, random weights, float32 and bf16.

Random weights serve for speed: nothing is downloaded, and no answer is looked at. Not the service over HTTP, which
takes only backbones whose weights are to be had.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.serving import two_pass
from benchmarks.serving.raw import rates
from service.cli.printing import console

NAME = "vit-b-22k"
CLUSTERS, LABELS = 100, 10
BATCHES = (1, 8, 32, 128, 512, 1024)


def measure(images: int = 3) -> dict[str, Any]:
    """images  seconds for each batch size, here."""
    device = os.environ.get("OUBLI_DEVICE", "cuda")
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU that PyTorch can use here: nothing was measured.")
    model = two_pass.random(NAME, clusters=CLUSTERS, labels=LABELS, device=device)
    size, figures = model.backbone.input_size, {"backbone": NAME, "device": torch.cuda.get_device_name(device)}
    for name, kind in (("float32", None), ("bf16", torch.bfloat16)):
        for passes, work in (("two passes", model.probabilities), ("one pass", model.one_pass)):
            figures[f"{passes}, {name}"] = rates(
                _cast(work, kind), size, float(images), torch.cuda.synchronize, BATCHES
            )
    return figures


def _cast(work: Callable[[Tensor], object], kind: torch.dtype | None) -> Callable[[Tensor], object]:
    def cast(images: Tensor) -> object:
        with torch.autocast("cuda", dtype=kind or torch.bfloat16, enabled=kind is not None):
            return work(images)

    return cast


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("images/s by batch", *map(str, BATCHES), title=f"{figures['backbone']} on {figures['device']}")
    for name, found in figures.items():
        if isinstance(found, dict):
            table.add_row(name, *(f"{found[str(batch)]:.0f}" for batch in BATCHES))
    console.print(table)

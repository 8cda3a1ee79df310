"""Feature prompts: training beside its bare passes, and a bank of a thousand beside one of pixel prompts, in one run.

Bare passes of a training: both views of every member up to the cut, once, then as many forward and backward passes of
the late part as there are steps, of one batch that is ready: no data, no head, no step. Trained twice: with members'
activations kept, as a worker does while they fit in memory, and computed anew for every batch.

The banks hold prompts of random values, with ten labels each, and answer full batches that mix them. An answer is a
description (two views) and, if the image's own cluster serves a prompt, the bank's pass. All take turns, since the
machine is seldom quiet; ratios and rates are of medians within the run.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.images import load
from models import activations, determinism, memory
from models.backbone import Backbone, load_backbone
from models.bank import PromptBank, kept_for, shown_to
from models.embedding import BATCH, describe
from models.late import LatePart
from models.prompt import values_shape
from models.spec import FEATURE, FEATURE_LR, PromptSpec, TrainingSpec
from models.training import TrainedPrompt, TrainingExample, train
from service.settings import load_settings

ROUNDS = 3
PROMPTS = 1_000
LABELS = tuple(f"label {number}" for number in range(10))
BATCHES = 8  # of a measurement of the bank
FEATURES = TrainingSpec(epochs=6, prompt_lr=FEATURE_LR, prompt=PromptSpec(FEATURE, 0))

console = Console()


def measure(images: int = 320) -> dict[str, Any]:
    """images  members of the cluster that is trained."""
    settings = load_settings()
    memory.keep_freed()
    determinism.configure(threads=settings.training.threads, device="cpu")
    backbone = load_backbone(settings.backbone)
    name, chosen, _ = load(max(images, BATCH), 0)
    members = [TrainingExample(image.pixels, image.label) for image in chosen]
    return {
        "data": name,
        "threads": settings.training.threads,
        "training": _training(backbone, members),
        "bank": _banks(backbone, members),
    }


def _in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each; the first round warms up and does not count."""
    taken: dict[str, list[float]] = {work: [] for work in works}
    for number in range(rounds + 1):
        for work, run in works.items():
            started = time.process_time()
            run()
            if number:
                taken[work].append(time.process_time() - started)
    return {work: statistics.median(seconds) for work, seconds in taken.items()}


# ------------------------------------------------------------------------------------------------------- training


def _training(backbone: Backbone, members: list[TrainingExample]) -> dict[str, Any]:
    late = backbone.cuts.at(None)
    pictures = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(backbone, late, pictures),
        "kept": lambda: train(backbone, FEATURES, key="features", members=members),
        "anew": lambda: _anew(backbone, members),
    }
    seconds = _in_turns(works, ROUNDS)
    trained = train(backbone, dataclasses.replace(FEATURES, epochs=1), key="features", members=members[:2])
    return {
        "members": len(members),
        "epochs": FEATURES.epochs,
        "seconds": seconds,
        "ratio": seconds["kept"] / seconds["bare"],
        "kept_bytes": 2 * len(members) * 4 * math.prod(late.shape),
        "prompt_bytes": trained.values.numel() * 4,
    }


def _bare(backbone: Backbone, late: LatePart, pictures: Tensor) -> None:
    for _ in range(2):
        activations.activations(backbone, late, pictures)
    ready = torch.randn((FEATURES.batch_size, *late.shape)).to(memory_format=torch.channels_last)
    values = torch.zeros((1, 2, late.width), requires_grad=True)
    for _ in range(FEATURES.epochs_of(len(pictures)) * math.ceil(len(pictures) / FEATURES.batch_size)):
        values.grad = None
        late.late(ready, values).sum().backward()  # type: ignore[no-untyped-call]


def _anew(backbone: Backbone, members: list[TrainingExample]) -> None:
    most, activations.MOST_KEPT = activations.MOST_KEPT, 0
    try:
        train(backbone, FEATURES, key="features", members=members)
    finally:
        activations.MOST_KEPT = most


# ------------------------------------------------------------------------------------------------------- the bank


def _banks(backbone: Backbone, members: list[TrainingExample]) -> dict[str, Any]:
    pictures = [backbone.preprocessing.resize(member.pixels) for member in members[:BATCH]]
    kinds = {"pixels": TrainingSpec(), "features": FEATURES}
    banks = {kind: _bank(backbone, spec) for kind, spec in kinds.items()}
    shown = {kind: shown_to(backbone, spec, torch.stack(pictures)) for kind, spec in kinds.items()}
    mixed = torch.arange(BATCH) * (PROMPTS // BATCH)

    def ask(kind: str) -> None:
        for number in range(BATCHES):
            banks[kind].probabilities(backbone, shown[kind], mixed + number)

    def view(kind: str) -> None:
        for _ in range(BATCHES):
            describe(backbone, pictures, exact=False, keep=kept_for(kinds[kind]))

    works: dict[str, Callable[[], object]] = {}
    for kind in kinds:
        works |= {f"{kind}: bank": lambda k=kind: ask(k), f"{kind}: description": lambda k=kind: view(k)}  # type: ignore[misc]
    seconds = _in_turns(works, 2 * ROUNDS + 1)
    count = BATCHES * BATCH
    return {
        kind: {
            "prompts": PROMPTS,
            "bytes": PROMPTS * 4 * math.prod(values_shape(kinds[kind].prompt, backbone)),
            "bank_images_per_second": count / seconds[f"{kind}: bank"],
            "images_per_second": count / (seconds[f"{kind}: bank"] + seconds[f"{kind}: description"]),
        }
        for kind in kinds
    }


def _bank(backbone: Backbone, spec: TrainingSpec) -> PromptBank:
    """Of prompts that are all different."""
    random = torch.Generator().manual_seed(1)
    shape = values_shape(spec.prompt, backbone)
    bank = PromptBank(backbone, spec)
    for number in range(PROMPTS):
        values = 0.1 * torch.randn(shape, generator=random)
        weight = torch.randn((len(LABELS), backbone.dim), generator=random)
        bank.put(str(number), TrainedPrompt(LABELS, values, weight, torch.zeros(len(LABELS)), 100, 600))
    return bank


def show(figures: dict[str, Any]) -> None:
    """As two tables."""
    trained = figures["training"]
    table = Table("", "seconds", title=f"{trained['members']} members, {trained['epochs']} epochs")
    for work, title in (("bare", "bare passes"), ("kept", "training"), ("anew", "training, activations anew")):
        table.add_row(title, f"{trained['seconds'][work]:.1f}")
    console.print(table)
    console.print(
        f"Training takes {trained['ratio']:.2f} times the bare passes; {trained['kept_bytes'] / 1e6:.0f} MB of "
        f"activations, {trained['prompt_bytes'] / 1e3:.0f} KB a prompt without its head."
    )
    table = Table("bank of 1,000", "MB, without heads", "bank, images/s", "with description, images/s")
    for kind, row in figures["bank"].items():
        rates = (f"{row['bank_images_per_second']:.0f}", f"{row['images_per_second']:.0f}")
        table.add_row(kind, f"{row['bytes'] / 1e6:.0f}", *rates)
    console.print(table)

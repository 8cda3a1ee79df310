"""What choosing lambda and temperature by leave-one-out is worth, and what it takes.

Accuracy and mean negative log-likelihood on test images, of the closed form with the constants and with what it has
chosen from its training images alone, on the data sets of `benchmarks.features`; the test images choose nothing. Then
processor time, on one thread, at each width: of a choice from 10,000 samples, and of an eigendecomposition of the sums,
from which any number of lambdas could be compared.
"""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from benchmarks.closed_form import LABELS, _units
from benchmarks.features import Described, _described, _sets
from models import determinism
from models.choice import MOST, RIDGES, Choice, choose, constants, is_choosable, select
from models.closed_form import Accumulators, accumulate, solve
from models.descriptor import Descriptor
from models.descriptor_kind import RIDGES as CONSTANTS
from models.descriptor_kind import DescriptorKind, Features
from models.spec import ClosedFormSpec

FEATURES: tuple[Features, ...] = ("quick", "rich", "richest")
SIZES = (300, 1_000)  # and all training images
WIDTHS = (768, 2_560, 5_536)

console = Console()


class Shown(NamedTuple):
    """A training image, by its place, a digest of its descriptor, and its label."""

    place: int
    digest: str
    label: str


def measure(*, images: int = 10_000) -> dict[str, Any]:
    """Both; `images` is the most training images of a data set, and the samples of the second part."""
    determinism.configure(threads=1, device="cpu")
    folder = Path(__file__).parent / "results" / "features"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with threadpool_limits(limits=1, user_api="blas"):
        for one in _sets(images):
            for features in FEATURES:
                described = _described(one, DescriptorKind(features, mirrored=one.mirrored), folder)
                sizes = [*(size for size in SIZES if size < len(one.train)), len(one.train)]
                rows += [{"data": one.name, **_row(features, described, size)} for size in sizes]
        costs = [_cost(width, images) for width in WIDTHS]
    return {"rows": rows, "costs": costs}


def _row(features: Features, described: Described, size: int) -> dict[str, Any]:
    """One kind on the first `size` training images."""
    train, labels = described.train[:size], described.train_labels[:size]
    spec = ClosedFormSpec(CONSTANTS[features], chooses_ridge=True, chooses_temperature=True)
    state = accumulate(train.shape[1], [(train, labels)])
    chosen = _choose(state, train, labels, spec)
    fixed = constants(spec)
    return {
        "features": features,
        "images": size,
        "test_images": len(described.test),
        "constants": {"ridge": fixed.ridge, "temperature": fixed.temperature, **_asked(state, fixed, described)},
        "chosen": {"ridge": chosen.ridge, "temperature": chosen.temperature, **_asked(state, chosen, described)},
    }


def _choose(state: Accumulators, train: Descriptor, labels: Sequence[str], spec: ClosedFormSpec) -> Choice:
    if not is_choosable(state.counts, spec):
        return constants(spec)
    shown = [Shown(i, hashlib.sha256(train[i].tobytes()).hexdigest(), label) for i, label in enumerate(labels)]
    asked = select(shown, state.counts)
    return choose(state, train[[one.place for one in asked]], [one.label for one in asked], spec=spec)


def _asked(state: Accumulators, choice: Choice, described: Described) -> dict[str, float]:
    """Accuracy on the test images, its 95 % interval, and the mean negative log-likelihood of the right labels."""
    head = solve(state, ridge=choice.ridge)
    scores = head.scores(described.test, choice.temperature)
    right = np.array([head.labels.index(label) for label in described.test_labels])
    accuracy = float((scores.argmax(axis=1) == right).mean())
    own = scores[np.arange(len(right)), right]
    return {
        "accuracy": accuracy,
        "interval": 1.96 * (accuracy * (1 - accuracy) / len(right)) ** 0.5,
        "nll": float(-np.log(np.maximum(own, 1e-12)).mean()),
    }


def _cost(width: int, count: int) -> dict[str, Any]:
    """Processor time and memory of a choice from random descriptors."""
    random = np.random.default_rng(0)
    rows = np.rint(_units(random, count, width) * (1 << 14)).astype(np.int16)
    labels = [LABELS[i % len(LABELS)] for i in range(count)]
    state = accumulate(width, [(rows, labels)])
    asked, theirs = rows[:MOST], labels[:MOST]
    spec = ClosedFormSpec(chooses_ridge=True, chooses_temperature=True)
    began = time.process_time()
    choose(state, asked, theirs, spec=spec)
    chosen = time.process_time()
    eigh(state.gram, check_finite=False)
    decomposed = time.process_time()
    tracemalloc.start()
    choose(state, asked[:256], theirs[:256], spec=spec)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "width": width,
        "samples": count,
        "compared": len(asked),
        "lambdas": len(RIDGES),
        "choice_seconds": chosen - began,
        "eigendecomposition_seconds": decomposed - chosen,
        "megabytes": (most + asked.nbytes) / 1e6,
        "load": os.getloadavg()[0],
    }


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    table = Table("data", "features", "images", "constants", "chosen", "lambda, temperature", "NLL")
    for row in figures["rows"]:
        fixed, chosen = row["constants"], row["chosen"]
        table.add_row(
            row["data"],
            row["features"],
            f"{row['images']:,}",
            f"{fixed['accuracy']:.4f} ± {fixed['interval']:.4f}",
            f"{chosen['accuracy']:.4f}",
            f"{chosen['ridge']}, {chosen['temperature']}",
            f"{fixed['nll']:.3f}; {chosen['nll']:.3f}",
        )
    console.print(table)
    table = Table("width", "samples", "compared", "choice, s", "eigendecomposition, s", "MB", "load")
    for row in figures["costs"]:
        table.add_row(
            f"{row['width']:,}",
            f"{row['samples']:,}",
            f"{row['compared']:,}",
            f"{row['choice_seconds']:.1f}",
            f"{row['eigendecomposition_seconds']:.1f}",
            f"{row['megabytes']:.0f}",
            f"{row['load']:.1f}",
        )
    console.print(table)

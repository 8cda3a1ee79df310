"""What makes a prompt help? Variants of training and asking, on the tree's clusters, judged on held-out samples.

Alone and fused with the closed form, as it is served. Test images are not looked at: what is chosen here must not know
them. VPT's tokens (arXiv 2203.12119) need a transformer, whose weights cannot be had here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.images import load
from models import determinism, fusion
from models.backbone import Backbone, load_backbone
from models.spec import PromptSpec, TrainingSpec
from models.training import TrainingExample
from service.cli.printing import progress_bar
from service.evaluation import learners
from service.evaluation.clustered import Clustered, tree_spec
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import Budget, Part, Setting
from service.evaluation.pool import Pool, describe_pool
from service.evaluation.workshop import build

BUDGET = Budget(training=TrainingSpec(epochs=4), cap=300, min=60)
NEAREST = (1, 2, 3)  # clusters that are asked, their answers weighted by how near they are
TEMPERATURE = 0.05  # of that weighting, on cosines
console = Console()

Trained = Callable[[TrainingSpec], TrainingSpec]
VARIANTS: dict[str, Trained] = {
    "as it is": lambda spec: spec,
    "no prompt": lambda spec: replace(spec, prompt=PromptSpec(kind="none")),
    "prompt lr 0.1": lambda spec: replace(spec, prompt_lr=0.1),
    "prompt lr 0.3": lambda spec: replace(spec, prompt_lr=0.3),
    "drawn towards none, 0.1": lambda spec: replace(spec, prompt_decay=0.1),
    "drawn towards none, 1": lambda spec: replace(spec, prompt_decay=1.0),
    "labels smoothed by 0.1": lambda spec: replace(spec, label_smoothing=0.1),
    "scale 20 of features": lambda spec: replace(spec, scale=20.0),
    "scale 5 of features": lambda spec: replace(spec, scale=5.0),
    "head lr 0.2": lambda spec: replace(spec, head_lr=0.2),
    "8 epochs": lambda spec: replace(spec, epochs=8),
    "frame of 4 pixels": lambda spec: replace(spec, prompt=PromptSpec(size=4)),
    "frame of 24 pixels": lambda spec: replace(spec, prompt=PromptSpec(size=24)),
    "a square of 32 pixels": lambda spec: replace(spec, prompt=PromptSpec(kind="fixed_patch", size=32)),
    "a moving square of 32": lambda spec: replace(spec, prompt=PromptSpec(kind="random_patch", size=32)),
    "started from noise of 1": lambda spec: replace(spec, prompt=PromptSpec(init_std=1.0)),
}


@dataclass(frozen=True)
class _Judged:
    backbone: Backbone
    pool: Pool
    asked: Pool
    labels: list[str]
    closed_form: Probabilities

    def accuracy(self, said: Probabilities) -> float:
        truth = [self.labels.index(label) for label in self.asked.labels]
        return float((said.argmax(axis=1) == truth).mean())


def measure(images: int = 1800) -> dict[str, Any]:
    """images  of which a third is held out."""
    determinism.configure(threads=1, device="cpu")
    name, contributed, _ = load(images, 1)
    judged = _described([TrainingExample(image.pixels, image.label) for image in contributed])
    figures: dict[str, Any] = {"data": name, "images": len(contributed), "rows": {}}
    figures["closed_form"] = judged.accuracy(judged.closed_form)
    with progress_bar() as bar:
        task = bar.add_task("Training variants", total=len(VARIANTS))
        for title, change in VARIANTS.items():
            figures["rows"][title] = _variant(judged, replace(BUDGET, training=change(BUDGET.training)))
            bar.advance(task)
    return figures


def _described(members: Sequence[TrainingExample]) -> _Judged:
    backbone = load_backbone("efficientnet-lite0")
    folder = Path(tempfile.gettempdir()) / "oubli-variants"
    all_samples = describe_pool(backbone, members, folder=folder)
    asked = all_samples.take(range(0, len(members), 3))
    pool = all_samples.take([row for row in range(len(members)) if row % 3])
    labels = sorted(set(pool.labels))
    ridge = learners.build_ridge(BUDGET.closed_form, pool)
    heard = learners.onto(labels, ridge, learners.ask_ridge(ridge, asked))
    return _Judged(backbone, pool, asked, labels, heard)


def _variant(judged: _Judged, budget: Budget) -> dict[str, Any]:
    """Accuracy alone and fused, by how many clusters are asked."""
    method = Clustered(Setting(judged.backbone, judged.pool, budget), tree_spec(budget))
    work = build(method, range(len(judged.pool)))
    everything = [
        learners.onto(judged.labels, learned, _ask(judged, budget, learned))
        for learned in (work.built[part.key] for part in work.parts)
    ]
    shares = np.array([fusion.weight(len(part.rows), len(judged.pool)) for part in work.parts])
    figures: dict[str, Any] = {"clusters": len(work.parts), "alone": {}, "fused": {}}
    for count in NEAREST:
        weights = _weights(judged, work.parts, count)
        said = np.einsum("nk,knl->nl", weights, np.stack(everything))
        share = (weights @ shares)[:, None]
        figures["alone"][str(count)] = judged.accuracy(said)
        figures["fused"][str(count)] = judged.accuracy(share * said + (1.0 - share) * judged.closed_form)
    return figures


def _ask(judged: _Judged, budget: Budget, learned: Learned) -> Probabilities:
    return learners.ask_prompt(judged.backbone, budget.training, learned, judged.asked)


def _weights(judged: _Judged, parts: Sequence[Part], count: int) -> Probabilities:
    """[n, clusters]: of the nearest by the mean of their members' embeddings, a softmax of the cosine."""
    means = np.stack([judged.pool.embeddings[list(part.rows)].mean(axis=0) for part in parts])
    cosines = judged.asked.embeddings @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    least = np.sort(cosines, axis=1)[:, -count][:, None]
    weights = np.where(cosines >= least, np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE), 0.0)
    normalised: Probabilities = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("variant", *(f"{way}, {n} asked" for way in ("alone", "fused") for n in NEAREST))
    for title, row in figures["rows"].items():
        table.add_row(title, *(f"{row[way][str(n)]:.4f}" for way in ("alone", "fused") for n in NEAREST))
    table.add_row("closed form alone", "", "", "", f"{figures['closed_form']:.4f}", "", "")
    console.print(table)

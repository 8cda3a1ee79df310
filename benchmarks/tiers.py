"""What each tier is worth: the closed form, prompts of clusters of several sizes, both fused, one prompt on everything.

Trained once (`trained_tiers`: that takes hours) and compared here. Beside it, what was decided by measuring the closed
form alone: its features, settings that are fixed and not fitted, samples that are not weighted by their class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import cho_factor, cho_solve

from benchmarks.images import load
from benchmarks.trained_tiers import (
    EVERYTHING,
    FEWEST,
    Array,
    described,
    folder_of,
    load_arrays,
    numbers,
    path_of,
    train_missing,
)
from models import determinism, fusion
from models.closed_form import accumulate, solve
from models.spec import ClosedFormSpec

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # of a prompt
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TEMPERATURES = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
SIZES = (100, 1_000, 10_000)  # samples that the closed form learns from
RARE = 0.1  # of the samples of half of the classes are kept, where they are rare

console = Console()


@dataclass(frozen=True)
class Part:
    """Training or test images: labels as numbers [n], embeddings and descriptors as float64 [n, width]."""

    labels: Array
    embeddings: Array
    descriptors: Array


class Data(NamedTuple):
    """Everything that is measured on."""

    classes: list[str]
    train: Part
    test: Part


def measure(*, images: int = 10_000, queries: int = 2_000, seeds: int = 3) -> dict[str, Any]:
    """Train what is missing, then compare; the figures. A seed is an order of arrival, hence other keys."""
    determinism.configure(threads=1, device="cpu")
    name, contributed, held_out = load(images, queries)
    folder = folder_of(name, len(contributed), len(held_out))
    classes = sorted({item.label for item in contributed})
    vectors = described(folder / "described.npz", contributed, held_out)
    data = Data(
        classes, *(Part(numbers(i, classes), *v) for i, v in zip((contributed, held_out), vectors, strict=True))
    )
    jobs = [(folder, images, queries, cap, seed) for seed in range(seeds) for cap in (*FEWEST, EVERYTHING)]
    train_missing(jobs)
    trained = {cap: [load_arrays(path_of(folder, cap, seed)) for seed in range(seeds)] for cap in (*FEWEST, EVERYTHING)}
    return {
        "data": name,
        "images": len(contributed),
        "test_images": len(held_out),
        "seeds": seeds,
        "closed_form": _closed_form(data)[1],
        "tiers": {_title(cap): _tier(data, runs) for cap, runs in trained.items()},
        "features": _features(data),
        "fitted": [_fitted(data, count) for count in _sizes(data)],
        "imbalance": _imbalance(data),
    }


# ------------------------------------------------------------------------------------------------------ comparing


def _heard(data: Data, train: Array, test: Array, count: int | None = None) -> Array:
    """Test probabilities [n, classes] of the closed form as it is served, fitted on the first `count`."""
    spec = ClosedFormSpec()
    labels = [data.classes[i] for i in data.train.labels[:count]]
    state = accumulate(train.shape[1], [(train[: len(labels)], labels)])
    head = solve(state, ridge=spec.ridge)
    scores = np.zeros((len(test), len(data.classes)))
    scores[:, [data.classes.index(label) for label in head.labels]] = head.scores(test, spec.temperature)
    return scores


def _accuracy(data: Data, scores: Array) -> float:
    return float((scores.argmax(axis=1) == data.test.labels).mean())


def _closed_form(data: Data) -> tuple[Array, float]:
    scores = _heard(data, data.train.descriptors, data.test.descriptors)
    return scores, _accuracy(data, scores)


def _tier(data: Data, runs: Sequence[dict[str, Array]]) -> dict[str, Any]:
    """One cap: its prompts alone, fused as served, and with every fixed weight."""
    heard, _ = _closed_form(data)
    prompts, fused = [], []
    by_weight: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
    for run in runs:
        if not np.array_equal(run["truth"], data.test.labels):
            raise RuntimeError("these probabilities are of other images: remove benchmarks/results/tiers")
        said = run["probs"].astype(np.float64)
        shares = np.array([fusion.weight(int(members), len(data.train.labels)) for members in run["size"]])[:, None]
        prompts.append(_accuracy(data, said))
        fused.append(_accuracy(data, shares * said + (1.0 - shares) * heard))
        for weight, accuracies in by_weight.items():
            accuracies.append(_accuracy(data, weight * said + (1.0 - weight) * heard))
    sizes = np.concatenate([run["sizes"] for run in runs])
    return {
        "clusters": len(runs[0]["sizes"]),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "prompts": prompts,
        "fused": fused,
        "by_weight": {str(weight): float(np.mean(accuracies)) for weight, accuracies in by_weight.items()},
    }


def _title(cap: int) -> str:
    return f"cap {cap}, min {FEWEST[cap]}" if cap else "one on everything"


def _sizes(data: Data) -> list[int]:
    return sorted({min(size, len(data.train.labels)) for size in SIZES})


def _features(data: Data) -> dict[str, dict[str, float]]:
    """Accuracy of the closed form on embeddings and on descriptors, by the number of samples."""
    pairs = {
        "embedding": (data.train.embeddings, data.test.embeddings),
        "descriptor": (data.train.descriptors, data.test.descriptors),
    }
    return {
        f"{name}, {train.shape[1]} wide": {
            str(count): _accuracy(data, _heard(data, train, test, count)) for count in _sizes(data)
        }
        for name, (train, test) in pairs.items()
    }


def _fitted(data: Data, count: int) -> dict[str, Any]:
    """Lambda and temperature as they are fixed, and as leave-one-out on the samples themselves would choose them."""
    rows, truth = data.train.descriptors[:count].astype(np.float64), data.train.labels[:count]
    targets = np.eye(len(data.classes))[truth]
    left_out = {ridge: _leave_one_out(rows, targets, ridge) for ridge in RIDGES}
    likely = {(r, t): _nll(out, truth, t) for r, out in left_out.items() for t in TEMPERATURES}
    spec = ClosedFormSpec()
    chosen = {
        "fixed": (spec.ridge, spec.temperature),
        "by accuracy": (max(RIDGES, key=lambda r: (left_out[r].argmax(axis=1) == truth).mean()), None),
        "by likelihood": min(likely, key=lambda pair: likely[pair]),
    }
    figures: dict[str, Any] = {"samples": count}
    for name, (ridge, temperature) in chosen.items():
        outputs = data.test.descriptors @ cho_solve(_factor(rows, ridge), rows.T @ targets)
        figures[name] = {
            "ridge": ridge,
            "temperature": temperature,
            "accuracy": _accuracy(data, outputs),
            "nll": _nll(outputs, data.test.labels, temperature) if temperature else None,
        }
    return figures


def _leave_one_out(rows: Array, targets: Array, ridge: float) -> Array:
    """The fit of each sample by all others, by the hat matrix: (fitted - h target) / (1 - h)."""
    solved = cho_solve(_factor(rows, ridge), rows.T)
    leverage = np.einsum("nd,dn->n", rows, solved)[:, None]
    outputs: Array = (rows @ (solved @ targets) - leverage * targets) / (1.0 - leverage)
    return outputs


def _factor(rows: Array, ridge: float) -> Any:
    return cho_factor(rows.T @ rows + ridge * np.eye(rows.shape[1]), lower=True)


def _nll(outputs: Array, truth: Array, temperature: float) -> float:
    logits = outputs / temperature
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(truth)), truth].mean())


def _imbalance(data: Data, repeats: int = 3) -> dict[str, dict[str, dict[str, float]]]:
    """Three ways to treat classes of different size; each by how many samples there are and whether half are rare."""
    return {
        way: {
            f"{count:,}{', half of the classes rare' if rare else ''}": {
                name: float(value)
                for name, value in zip(
                    ("mean recall", "rare", "frequent"),
                    np.mean([_unequal(data, way, count, seed, rare=rare) for seed in range(repeats)], axis=0),
                    strict=True,
                )
            }
            for count in _sizes(data)[1:]
            for rare in (False, True)
        }
        for way in ("plain", "samples weighted", "targets scaled")
    }


def _unequal(data: Data, way: str, count: int, seed: int, *, rare: bool) -> list[float]:
    """Mean recall of all classes, of the rare half, and of the other."""
    random, truth = np.random.default_rng(seed), data.train.labels
    half = np.isin(np.arange(len(data.classes)), random.permutation(len(data.classes))[: len(data.classes) // 2])
    kept = np.flatnonzero(~(half[truth] & rare) | (random.random(len(truth)) < RARE))[:count]
    recall = _recall(data, data.train.descriptors[kept].astype(np.float64), truth[kept], way)
    return [float(recall.mean()), float(recall[half].mean()), float(recall[~half].mean())]


def _recall(data: Data, rows: Array, truth: Array, way: str) -> Array:
    """By class [classes]. Weights need the Gram matrix of each class; scaled targets only counts, which are kept."""
    counts = np.bincount(truth, minlength=len(data.classes))
    balanced = len(truth) / (len(data.classes) * np.maximum(counts, 1))
    weighted = rows * balanced[truth][:, None] if way == "samples weighted" else rows
    targets = np.diag(np.sqrt(balanced)) if way == "targets scaled" else np.eye(len(data.classes))
    factor = cho_factor(rows.T @ weighted + ClosedFormSpec().ridge * np.eye(rows.shape[1]), lower=True)
    outputs = data.test.descriptors @ cho_solve(factor, weighted.T @ targets[truth])
    right = outputs.argmax(axis=1) == data.test.labels
    return np.array([right[data.test.labels == label].mean() for label in range(len(data.classes))])


# -------------------------------------------------------------------------------------------------------- showing


def show(figures: dict[str, Any]) -> None:
    """As tables."""
    for table in _tables(figures):
        console.print(table)


def _tables(figures: dict[str, Any]) -> Iterator[Table]:
    title = f"{figures['images']:,} images ({figures['data']}), {figures['seeds']} orders of arrival"
    table = Table("prompts", "clusters (sizes)", "prompts alone", "fused", "best fixed weight", title=title)
    table.add_row("none: closed form", "", "", f"{figures['closed_form']:.4f}", "")
    for name, row in figures["tiers"].items():
        best = max(row["by_weight"], key=lambda weight: row["by_weight"][weight])
        sizes = f"{row['clusters']} ({row['smallest']}-{row['largest']})"
        table.add_row(name, sizes, _span(row["prompts"]), _span(row["fused"]), f"{best}: {row['by_weight'][best]:.4f}")
    yield table
    table = Table("closed form on", *next(iter(figures["features"].values())))
    for name, row in figures["features"].items():
        table.add_row(name, *(f"{accuracy:.4f}" for accuracy in row.values()))
    yield table
    table = Table("samples", "settings", "lambda", "temperature", "accuracy", "NLL")
    for fitted in figures["fitted"]:
        for name in ("fixed", "by accuracy", "by likelihood"):
            values = [str(v) if v is not None else "" for v in fitted[name].values()]
            table.add_row(f"{fitted['samples']:,}", name, *(value[:6] for value in values))
    yield table
    table = Table("classes", "samples", "mean recall", "rare half", "other half")
    for way, cases in figures["imbalance"].items():
        for name, row in cases.items():
            table.add_row(way, name, *(f"{value:.4f}" for value in row.values()))
    yield table


def _span(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"

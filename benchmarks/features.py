"""What each kind of descriptor is worth to the closed form: accuracy by kind, data set and number of training images.

Three data sets: the CIFAR-10 subset with the test images that nothing was ever chosen on, scikit-learn's digits, and
handwritten characters of eight alphabets, the last two without mirror images. Lambda is chosen on a fifth of the
training images, the parts of each kind were; test images are only asked. Descriptors are kept in `results/features`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.images import Labelled, digits
from models import determinism
from models.backbone import load_backbone
from models.closed_form import accumulate, solve
from models.descriptor import RIDGES, Descriptor, DescriptorKind, Features
from models.embedding import describe
from models.image import pixel_digest
from models.spec import canonical_json, sha256
from service.cli.printing import progress_bar

BACKBONE = "efficientnet-lite0"
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0)
SIZES = (100, 1_000)  # and all training images
CHUNK = 64  # images described between two steps of the bar
DIGITS = 450  # test images

console = Console()


@dataclass(frozen=True)
class Set:
    """A data set; `mirrored` if a mirror image shows the same thing."""

    name: str
    mirrored: bool
    train: list[Labelled]
    test: list[Labelled]


@dataclass(frozen=True)
class Described:
    """Descriptors [n, width] and labels of training and of test images, in order of arrival."""

    train: Descriptor
    train_labels: list[str]
    test: Descriptor
    test_labels: list[str]


def measure(*, images: int = 10_000) -> dict[str, Any]:
    """Accuracies of every kind on every data set; `images` is the most training images of one."""
    determinism.configure(threads=2, device="cpu")
    rows = []
    for one in _sets(images):
        for features in get_args(Features):
            described = _described(one, DescriptorKind(features, mirrored=one.mirrored))
            sizes = [*(size for size in SIZES if size < len(one.train)), len(one.train)]
            rows += [_row(one, features, described, size) for size in sizes]
    return {"backbone": BACKBONE, "rows": rows}


def _sets(images: int) -> list[Set]:
    folder = Path(os.environ.get("OUBLI_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    train, test = digits(images, DIGITS)
    found = [Set("digits", False, train, test)]
    if (folder / "omniglot-alphabets.npz").is_file():
        path = folder / "omniglot-alphabets.npz"
        found.insert(0, Set("characters of 8 alphabets", False, _part(path, "train", images), _part(path, "test")))
    if (folder / "cifar10-final.npz").is_file():
        train = _part(folder / "cifar10-small.npz", "train", images)
        found.insert(0, Set("CIFAR-10 subset", True, train, _part(folder / "cifar10-final.npz", "test")))
    return found


def _part(path: Path, part: str, most: int | None = None) -> list[Labelled]:
    """Images of a file, shuffled."""
    with np.load(path, allow_pickle=False) as data:
        pixels, labels, classes = data[f"{part}_images"], data[f"{part}_labels"], data["classes"]
    chosen = np.random.default_rng(0).permutation(len(pixels))[:most]
    return [Labelled(pixels[i], str(classes[labels[i]])) for i in chosen]


def _described(one: Set, kind: DescriptorKind) -> Described:
    parts = [_descriptors(items, kind, f"{one.name}, {kind.name}") for items in (one.train, one.test)]
    train, test = ([item.label for item in items] for items in (one.train, one.test))
    return Described(parts[0], train, parts[1], test)


def _descriptors(items: Sequence[Labelled], kind: DescriptorKind, title: str) -> Descriptor:
    backbone = load_backbone(BACKBONE, kind=kind)
    made_from = [backbone.digest, kind.name, [pixel_digest(item.pixels) for item in items]]
    path = Path(__file__).parent / "results" / "features" / f"{sha256(canonical_json(made_from))[:16]}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = []
        with progress_bar() as bar:
            task = bar.add_task(title, total=len(items))
            for start in range(0, len(items), CHUNK):
                resized = [backbone.preprocessing.resize(item.pixels) for item in items[start : start + CHUNK]]
                chunks.append(describe(backbone, resized).descriptors)
                bar.advance(task, len(resized))
        np.save(path, np.concatenate(chunks))
    found: Descriptor = np.load(path, allow_pickle=False)
    return found


def _row(one: Set, features: Features, described: Described, size: int) -> dict[str, Any]:
    """One kind on the first `size` training images."""
    train, labels = described.train[:size], described.train_labels[:size]
    held_out = max(size // 5, 1)
    on_split = {
        ridge: _accuracy(train[held_out:], labels[held_out:], ridge)(train[:held_out], labels[:held_out])
        for ridge in LAMBDAS
    }
    chosen = max(on_split, key=lambda ridge: on_split[ridge])
    found = {
        name: _accuracy(train, labels, ridge)(described.test, described.test_labels)
        for name, ridge in (("default", RIDGES[features]), ("chosen", chosen))
    }
    spread = 1.96 * (found["default"] * (1 - found["default"]) / len(described.test)) ** 0.5
    return {
        "data": one.name,
        "features": features,
        "width": train.shape[1],
        "images": size,
        "test_images": len(described.test),
        "accuracy": found["default"],
        "interval": spread,
        "lambda": RIDGES[features],
        "chosen_lambda": chosen,
        "accuracy_at_chosen": found["chosen"],
        "on_split": {str(ridge): value for ridge, value in on_split.items()},
    }


def _accuracy(train: Descriptor, labels: Sequence[str], ridge: float) -> Callable[[Descriptor, Sequence[str]], float]:
    """A function of other images: how many of them the head that is fitted on these gets right."""
    head = solve(accumulate(train.shape[1], [(train, labels)]), ridge=ridge)
    names: npt.NDArray[Any] = np.array(head.labels, dtype=object)

    def right(rows: Descriptor, truth: Sequence[str]) -> float:
        answers = names[head.scores(rows, 0.1).argmax(axis=1)]
        return float(np.mean(answers == np.array(truth, dtype=object)))

    return right


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("data", "features", "width", "images", "accuracy", "lambda", "at the lambda chosen on a split")
    for row in figures["rows"]:
        table.add_row(
            row["data"],
            row["features"],
            f"{row['width']:,}",
            f"{row['images']:,}",
            f"{row['accuracy']:.4f} ± {row['interval']:.4f}",
            str(row["lambda"]),
            f"{row['accuracy_at_chosen']:.4f} ({row['chosen_lambda']})",
        )
    console.print(table)

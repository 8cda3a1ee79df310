"""What each kind of descriptor is worth to the closed form: accuracy by kind, data set and number of training images.

Three data sets: the CIFAR-10 subset with the test images that nothing was ever chosen on, scikit-learn's digits, and
handwritten characters of eight alphabets, the last two without mirror images. Lambda is chosen on a fifth of the
training images, the parts of each kind were; test images are only asked. What describing gives is kept in
`results/features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.images import Labelled, data_folder, digits, from_file
from models import determinism
from models.backbone import Backbone, load_backbone
from models.closed_form import accumulate, solve
from models.descriptor import Descriptor
from models.descriptor_kind import RIDGES, DescriptorKind, Features
from models.embedding import BATCH, combine, describe
from models.image import pixel_digest
from models.spec import ClosedFormSpec, canonical_json, sha256
from service.cli.printing import progress_bar

BACKBONE = "efficientnet-lite0"
LAMBDAS = (0.03, 0.1, 0.3)
SIZES = (100, 1_000)  # and all training images
DIGITS = 450  # test images

Array = npt.NDArray[Any]

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
    determinism.configure(threads=1, device="cpu")
    folder = Path(__file__).parent / "results" / "features"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in _sets(images):
        for features in get_args(Features):
            described = _described(one, DescriptorKind(features, mirrored=one.mirrored), folder)
            sizes = [*(size for size in SIZES if size < len(one.train)), len(one.train)]
            rows += [_row(one, features, described, size) for size in sizes]
    return {"backbone": BACKBONE, "rows": rows}


def _sets(images: int) -> list[Set]:
    folder = data_folder()
    train, test = digits(images, DIGITS)
    found = [Set("digits", False, train, test)]
    if (folder / "omniglot-alphabets.npz").is_file():
        path = folder / "omniglot-alphabets.npz"
        found.insert(
            0, Set("characters of 8 alphabets", False, from_file(path, "train", images), from_file(path, "test"))
        )
    if (folder / "cifar10-final.npz").is_file():
        train = from_file(folder / "cifar10-small.npz", "train", images)
        found.insert(0, Set("CIFAR-10 subset", True, train, from_file(folder / "cifar10-final.npz", "test")))
    return found


def _described(one: Set, kind: DescriptorKind, folder: Path) -> Described:
    parts = [_descriptors(items, kind, folder, one.name) for items in (one.train, one.test)]
    train, test = ([item.label for item in items] for items in (one.train, one.test))
    return Described(parts[0], train, parts[1], test)


def _descriptors(items: Sequence[Labelled], kind: DescriptorKind, folder: Path, title: str) -> Descriptor:
    """Descriptors of one kind, made of the parts of the richest: these are computed once for all kinds."""
    richest = load_backbone(BACKBONE, kind=DescriptorKind("richest", mirrored=kind.mirrored))
    made_from = [richest.digest, richest.kind.name, [pixel_digest(item.pixels) for item in items]]
    path = folder / f"{sha256(canonical_json(made_from))[:16]}.npz"
    if not path.is_file():
        np.savez(path, *_parts(richest, items, title))
    backbone = load_backbone(BACKBONE, kind=kind)
    with np.load(path, allow_pickle=False) as kept:
        chosen = [kept[f"arr_{place}"] for place in _places(backbone, richest)]
    count = kind.views * len(items)
    found = combine([part[:count].astype(np.float64) for part in chosen], kind.views, backbone.part_widths)
    resized = [backbone.preprocessing.resize(item.pixels) for item in items[:3]]
    if not np.array_equal(describe(backbone, resized).descriptors, found[:3]):
        raise RuntimeError(f"these are not the descriptors of {kind.name}: remove {path}")
    return found


def _parts(richest: Backbone, items: Sequence[Labelled], title: str) -> list[Array]:
    """Each part [views * n, width of the part]: of all images, then of all mirror images."""
    views: list[list[list[Array]]] = [[] for _ in range(richest.kind.views)]
    with progress_bar() as bar, torch.inference_mode():
        task = bar.add_task(title, total=len(items))
        for start in range(0, len(items), BATCH):
            images = [richest.preprocessing.resize(item.pixels) for item in items[start : start + BATCH]]
            batch = torch.zeros((BATCH, *images[0].shape), dtype=torch.uint8)
            batch[: len(images)] = torch.stack(images)
            for view, seen in zip(views, (batch, batch.flip(3)), strict=False):
                _, *parts = richest.description(richest.preprocessing.normalise(seen))
                view.append([part[: len(images)].numpy().copy() for part in parts])
            bar.advance(task, len(images))
    chunks = [chunk for view in views for chunk in view]
    return [np.concatenate(of_part) for of_part in zip(*chunks, strict=True)]


def _places(backbone: Backbone, richest: Backbone) -> list[int]:
    """Where the parts of a kind are among those of the richest."""

    def keys(one: Backbone) -> list[tuple[str | None, object]]:
        return [(one.depths.name_of(part.block), part.reading) for part in one.depths.parts]

    all_of_them = keys(richest)
    return [all_of_them.index(key) for key in keys(backbone)]


def _row(one: Set, features: Features, described: Described, size: int) -> dict[str, Any]:
    """One kind on the first `size` training images."""
    train, labels = described.train[:size], described.train_labels[:size]
    held_out = max(size // 5, 1)
    split = _accuracies(train[held_out:], labels[held_out:], train[:held_out], labels[:held_out], LAMBDAS)
    chosen = max(LAMBDAS, key=lambda ridge: split[ridge])
    found = _accuracies(train, labels, described.test, described.test_labels, (RIDGES[features], chosen))
    accuracy = found[RIDGES[features]]
    spread = 1.96 * (accuracy * (1 - accuracy) / len(described.test)) ** 0.5
    return {
        "data": one.name,
        "features": features,
        "width": train.shape[1],
        "images": size,
        "test_images": len(described.test),
        "accuracy": accuracy,
        "interval": spread,
        "lambda": RIDGES[features],
        "chosen_lambda": chosen,
        "accuracy_at_chosen": found[chosen],
        "on_split": {str(ridge): value for ridge, value in split.items()},
    }


def _accuracies(
    train: Descriptor, labels: Sequence[str], asked: Descriptor, truth: Sequence[str], ridges: Sequence[float]
) -> dict[float, float]:
    """How many of the asked images a head gets right that is fitted on the others, by lambda."""
    state = accumulate(train.shape[1], [(train, labels)])
    found = {}
    for ridge in sorted(set(ridges)):
        head = solve(state, ridge=ridge)
        places = head.scores(asked, ClosedFormSpec().temperature).argmax(axis=1)
        found[ridge] = float(np.mean([head.labels[place] == label for place, label in zip(places, truth, strict=True)]))
    return found


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

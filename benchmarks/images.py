"""Real images for measurements: the CIFAR-10 subset of `OUBLI_TEST_DATA`, else scikit-learn's digits."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.image import Pixels


@dataclass(frozen=True)
class Labelled:
    """An image and its class."""

    pixels: Pixels
    label: str

    def png(self) -> bytes:
        """As a file to upload."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG")
        return buffer.getvalue()


def data_folder() -> Path:
    """Where data sets lie that no package brings."""
    return Path(os.environ.get("OUBLI_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


def load(train: int, test: int, *, seed: int = 0) -> tuple[str, list[Labelled], list[Labelled]]:
    """Name of the data set, and shuffled train and test images."""
    folder = data_folder()
    random = np.random.default_rng(seed)
    if (folder / "cifar10-small.npz").is_file():
        data = np.load(folder / "cifar10-small.npz", allow_pickle=False)
        parts = []
        for part, count in (("train", train), ("test", test)):
            images, labels = data[f"{part}_images"], data[f"{part}_labels"]
            chosen = random.permutation(len(images))[:count]
            parts.append([Labelled(images[i], str(data["classes"][labels[i]])) for i in chosen])
        return "CIFAR-10 subset", parts[0], parts[1]
    return "digits", *digits(train, test, seed=seed)


def from_file(path: Path, part: str, most: int | None = None) -> list[Labelled]:
    """Images of a file of `data_folder()`, shuffled; `part` is `train` or `test`."""
    with np.load(path, allow_pickle=False) as data:
        pixels, labels, classes = data[f"{part}_images"], data[f"{part}_labels"], data["classes"]
    chosen = np.random.default_rng(0).permutation(len(pixels))[:most]
    return [Labelled(pixels[i], str(classes[labels[i]])) for i in chosen]


def digits(train: int, test: int, *, seed: int = 0) -> tuple[list[Labelled], list[Labelled]]:
    """Shuffled train and test images of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    bunch, random = load_digits(), np.random.default_rng(seed)
    order = random.permutation(len(bunch.images))
    made = []
    for index in order:
        grey = Image.fromarray((bunch.images[index] * 255.0 / 16.0).round().astype(np.uint8))
        pixels = np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
        made.append(Labelled(pixels, str(bunch.target[index])))
    held_out = min(test, len(made) // 4)
    return made[held_out:][:train], made[:held_out]

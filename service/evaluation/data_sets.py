"""Labelled images to evaluate on: named data sets in torchvision's on-disk formats, folders, and .npz files.

Nothing is downloaded unless asked. An image of a folder is decoded as an upload is (`models.image`); one that cannot be
is named, not passed over. Which images are chosen, and their order, depend on the seed alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from models import class_folders
from models.class_folders import Kind
from models.image import ImageError, Pixels, decode, pixel_digest
from models.training import TrainingExample

HELD_OUT = 5  # of a folder that is not divided, about every fifth image is a test image


class MissingDataSet(ValueError):
    """It is not known, not there, or damaged; the message says where to put it and how to fetch it."""


@dataclass(frozen=True)
class DataSet:
    """Images to learn from, in the order in which they arrive, and images to ask about."""

    name: str
    train: list[TrainingExample]
    test: list[TrainingExample]

    @property
    def labels(self) -> list[str]:
        """Every label of a training image, sorted."""
        return sorted({member.label for member in self.train})


def load_data_set(
    name: str,
    *,
    root: Path,
    download: bool = False,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> DataSet:
    """The data set of that name, shuffled; at most `train` and `test` images of it.

    name  one of `NAMES`, a .npz file with train_images uint8 [n, h, w, 3], train_labels [n], test_images, test_labels
          and perhaps classes; or a folder: of class folders, or of `train` and `test` (or `val`) with class folders.
    root  where torchvision keeps the named ones.

    Raises MissingDataSet.
    """
    path = Path(name)
    if name in NAMES:
        parts = _named(name, root, download)
    elif path.suffix == ".npz":
        parts = _npz(path)
    elif path.is_dir():
        parts = _folder(path)
    else:
        raise MissingDataSet(f"Unknown data set {name!r}. Known: {', '.join(NAMES)}, a .npz file, or a folder.")
    random = np.random.default_rng(seed)
    chosen = [_choose(part, most, random) for part, most in zip(parts, (train, test), strict=True)]
    if not all(chosen):
        raise MissingDataSet(f"{name} has no images to {'learn from' if not chosen[0] else 'ask about'}.")
    return DataSet(path.stem if name not in NAMES else name, *chosen)


Split = tuple[Sequence[Any], Sequence[str], Callable[[Any], Pixels]]  # sources of images, labels, how one is read


def _choose(part: Split, most: int | None, random: np.random.Generator) -> list[TrainingExample]:
    """Some at random, in random order; only they are read."""
    sources, labels, read = part
    return [TrainingExample(read(sources[i]), labels[i]) for i in random.permutation(len(sources))[:most]]


# --------------------------------------------------------------------------------------------------- by torchvision


def _cifar(kind: type[datasets.CIFAR10]) -> Callable[..., Split]:
    def read(root: Path, training: bool, download: bool) -> Split:
        found = kind(str(root), train=training, download=download)
        return found.data, [found.classes[target] for target in found.targets], np.ascontiguousarray

    return read


def _svhn(root: Path, training: bool, download: bool) -> Split:
    found = datasets.SVHN(str(root), split="train" if training else "test", download=download)
    return found.data.transpose(0, 2, 3, 1), [str(label) for label in found.labels.tolist()], np.ascontiguousarray


def _gtsrb(root: Path, training: bool, download: bool) -> Split:
    found = datasets.GTSRB(str(root), split="train" if training else "test", download=download)
    labels = [f"{target:02d}" for _, target in found._samples]
    return range(len(found)), labels, lambda index: np.asarray(found[index][0], dtype=np.uint8)


def _digits(_root: Path, training: bool, _download: bool) -> Split:
    """1,797 grey digits of 8 x 8 pixels, which every scikit-learn has; enlarged four times."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.repeat(np.repeat((bunch.images * 15.9375).astype(np.uint8), 4, axis=1), 4, axis=2)
    images = np.repeat(grey[..., None], 3, axis=3)
    tested = np.arange(len(images)) % HELD_OUT == 0
    rows = ~tested if training else tested
    return images[rows], [str(label) for label in bunch.target[rows]], np.ascontiguousarray


@dataclass(frozen=True)
class _Named:
    read: Callable[[Path, bool, bool], Split]
    files: str  # below the root


_NAMED = {
    "cifar10": _Named(_cifar(datasets.CIFAR10), "cifar-10-batches-py/ (data_batch_1 to 5, test_batch, batches.meta)"),
    "cifar100": _Named(_cifar(datasets.CIFAR100), "cifar-100-python/ (train, test, meta)"),
    "svhn": _Named(_svhn, "train_32x32.mat and test_32x32.mat"),
    "gtsrb": _Named(_gtsrb, "gtsrb/GTSRB/Training/, gtsrb/GTSRB/Final_Test/Images/ and gtsrb/GT-final_test.csv"),
    "digits": _Named(_digits, ""),
}
NAMES = tuple(_NAMED)


def _named(name: str, root: Path, download: bool) -> tuple[Split, Split]:
    one = _NAMED[name]
    try:
        return one.read(root, True, download), one.read(root, False, download)
    except (RuntimeError, OSError) as error:  # torchvision: not found, wrong checksum, no network
        raise MissingDataSet(
            f"{name} cannot be read ({_first_line(error)}). Put {one.files} into {root}, or run again with --download."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". You can use")[0].rstrip(".")


# -------------------------------------------------------------------------------------------------- files and folders


def _npz(path: Path) -> tuple[Split, Split]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:  # TypeError: a lone array
        raise MissingDataSet(f"{path} cannot be read as .npz: {_first_line(error)}.") from None
    wanted = [f"{part}_{what}" for part in ("train", "test") for what in ("images", "labels")]
    if missing := [array for array in wanted if array not in arrays]:
        raise MissingDataSet(f"{path} has no array {', '.join(missing)}. It has: {', '.join(arrays) or 'none'}.")
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != len(labels):
            raise MissingDataSet(
                f"{path}: {part}_images must be uint8 [n, height, width, 3] and {part}_labels [n]; they are "
                f"{images.dtype} {list(images.shape)} and {list(labels.shape)}."
            )
    names = arrays.get("classes")

    def part_of(part: str) -> Split:
        labels = arrays[f"{part}_labels"]
        return arrays[f"{part}_images"], [str(i if names is None else names[i]) for i in labels], np.ascontiguousarray

    return part_of("train"), part_of("test")


def _folder(path: Path) -> tuple[Split, Split]:
    test = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir() and test is not None:
        return _files(_labelled(path / "train")), _files(_labelled(test))
    files = list(_labelled(path))
    is_test = [int(pixel_digest(_read_file(file))[:8], 16) % HELD_OUT == 0 for file, _ in files]
    parts = [
        [pair for pair, tested in zip(files, is_test, strict=True) if tested is wanted] for wanted in (False, True)
    ]
    return _files(parts[0]), _files(parts[1])


def _labelled(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file of every class folder, for its reader to say what it is; what systems leave behind is not there."""
    found = class_folders.find(path)
    yield from ((picture.path, picture.label) for picture in found.pictures)
    for entry in found.left_out:
        if entry.kind in class_folders.MISSED | {Kind.OTHER} and entry.path.parent != path:
            yield entry.path, ""


def _files(pairs: Iterator[tuple[Path, str]] | list[tuple[Path, str]]) -> Split:
    pairs = list(pairs)
    return [file for file, _ in pairs], [label for _, label in pairs], _read_file


def _read_file(file: Path) -> Pixels:
    try:
        return decode(file.read_bytes())
    except ImageError as error:
        raise MissingDataSet(f"{file}: {error}") from None
    except OSError as error:
        raise MissingDataSet(f"{file} cannot be read: {error.strerror}.") from None

"""The demo's images: real handwritten digits, from scikit-learn's copy of the UCI "Optical Recognition" test set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

FEW, FEW_LABEL = 8, 7  # how many digits of which kind the one gave who is to be forgotten
TRAINED = 1200
HELD_OUT = 300


@dataclass(frozen=True)
class Digit:
    """A handwritten digit, as a PNG file, and who contributed it."""

    png: bytes
    label: str
    owner: str


def digits(people: Sequence[str], forgotten: str) -> tuple[list[Digit], list[Digit]]:
    """Digits to train on, and held-out ones. `people` gave many of every kind, `forgotten` a few sevens."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))[: TRAINED + HELD_OUT]
    made: list[Digit] = []
    for place, index in enumerate(order):
        label = int(bunch.target[index])
        few = label == FEW_LABEL and sum(digit.owner == forgotten for digit in made) < FEW
        owner = forgotten if few else people[place % len(people)]
        made.append(Digit(_png(bunch.images[index]), str(label), owner))
    return made[:TRAINED], made[TRAINED:]


def _png(image: npt.NDArray[np.float64]) -> bytes:
    grey = Image.fromarray((image * 255.0 / 16.0).round().astype(np.uint8))
    buffer = io.BytesIO()
    grey.resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()

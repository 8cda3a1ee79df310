"""Specs: the settings that a model is built with, as frozen values with a canonical digest.

A spec says *what* to build, never *whose* data to build it from. Two specs with the same `digest()` build the same
prompt from the same members (in one environment, see `models.determinism`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: one byte string per value, so that it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sha256(*parts: bytes) -> str:
    """Hex SHA-256 of length-prefixed parts: ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


# Settings that earlier releases did not have, and the values that reproduce their behaviour and their keys.
_LATER = {"init_std": 0.0, "start": None, "label_smoothing": 0.0, "prompt_decay": 0.0, "cut": None, "solved_below": 0}

FEATURE = "feature"
FEATURE_LR = 0.05  # a good peak learning rate of feature prompts
SOLVED_BELOW = 200  # members: where a solved head measures better (docs/explanation/evaluation.md)

# Epochs of a feature prompt by how many members it has, the fewer the more: about 12 (1,000 / n)^0.6, as measured
# (docs/explanation/evaluation.md). A table, for the same number on every machine: from so many members on, so many.
EPOCHS = ((8_000, 3), (4_000, 5), (2_000, 8), (0, 12))


def _without_later_defaults(values: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in values if name not in _LATER or value != _LATER[name]}


@dataclass(frozen=True)
class PromptSpec:
    """A visual prompt added to the pixels (Bahng et al., arXiv 2203.17274), or a feature prompt.

    kind      "padding": a learned frame around the image; "fixed_patch": a square in its upper left corner;
              "random_patch": a square that is trained at places drawn anew for each batch; "none"; "feature": a scale
              and a shift of every channel after a cut of the backbone (`models.late`).
    size      width of the frame or of the square, in pixels of the backbone's input; 0 of a feature prompt.
    init_std  its pixels start as normal noise of this standard deviation, drawn from the key; 1 in the reference code.
    start     hex SHA-256 of the values it starts from instead (`models.meta_prompt`).
    cut       of a feature prompt: how many of the backbone's blocks or stages lie before it; None: as
              `models.late.default_cut` says.
    """

    kind: str = "padding"
    size: int = 12
    init_std: float = 0.0
    start: str | None = None
    cut: int | None = None


@dataclass(frozen=True)
class TrainingSpec:
    """The training of one cluster's prompt and head. Learning rates per batch.

    epochs        passes over the members; None: as many as `EPOCHS` says for their number.
    solved_below  with fewer members, the head of a feature prompt is solved on the adapted features in the end
                  (`models.closed_form`), in place of the one that has learned along with the prompt.
    """

    epochs: int | None = 6
    batch_size: int = 32
    prompt_lr: float = 0.03
    head_lr: float = 0.05
    momentum: float = 0.9
    warmup: float = 0.1  # share of all steps with a linearly rising learning rate
    scale: float = 10.0  # logits = scale * <L2-normalised features, head row> + bias
    flip: bool = True  # mirror each image left to right with probability 1/2
    prompt: PromptSpec = PromptSpec()
    label_smoothing: float = 0.0  # share of each target that is spread over all labels
    prompt_decay: float = 0.0  # weight decay of the prompt, towards no prompt
    solved_below: int = 0

    def epochs_of(self, members: int) -> int:
        """Passes over so many members."""
        if self.epochs is not None:
            return self.epochs
        return next(epochs for least, epochs in EPOCHS if members >= least)

    def record(self) -> dict[str, Any]:
        """Every setting, for JSON; later additions only if they are set, so that older prompts keep their keys."""
        return dataclasses.asdict(self, dict_factory=_without_later_defaults)

    def digest(self) -> str:
        """Hex SHA-256 of every setting, and of the method: /2 trains on a folded backbone (decision 0011).

        The method of feature prompts, with the rules for their cut and their epochs, has a version of its own.
        """
        method = b"oubli/feature-training/1" if self.prompt.kind == FEATURE else b"oubli/training/2"
        return sha256(method, canonical_json(self.record()))


@dataclass(frozen=True)
class ClosedFormSpec:
    """Solving and weighting of the closed-form tier; how its defaults were chosen: docs/explanation/evaluation.md.

    ridge        lambda of the ridge regression, for unit descriptors; it does not grow with the number of samples.
    temperature  by which the regression's outputs are divided before the softmax.
    chooses_...  whether it is chosen by `models.choice` where there are samples enough; then the value above is the
                 constant that holds meanwhile.
    """

    ridge: float = 0.1
    temperature: float = 0.1
    chooses_ridge: bool = False
    chooses_temperature: bool = False


@dataclass(frozen=True)
class PartitionSpec:
    """Settings of a partition; each kind uses its own.

    cap, min            of `tree`: samples in a cluster.
    anchors             of `anchors`: how many survivors the centroids are means of.
    clusters            of `random`: how many; of `anchors`: how many at most, instead of the threshold.
    distance_threshold  of `anchors`: average linkage joins below this distance of unit vectors (0 to 2).
    """

    kind: str = "tree"
    cap: int = 500
    min: int = 100
    anchors: int = 1000
    clusters: int | None = None
    distance_threshold: float = 1.05


def member_digest(image_digest: str, label: str) -> str:
    """Digest of one member of a cluster: its pixels and its label; never its id, owner or time of arrival."""
    return sha256(b"oubli/member/1", image_digest.encode(), label.encode())


def prompt_key(*, backbone_digest: str, training: TrainingSpec, members: Iterable[str]) -> str:
    """The key of a prompt: a digest of everything that it is built from.

    members  member digests in arrival order. The order is part of the key because training visits members in an
             order drawn from it.
    """
    ordered = "\n".join(members).encode()
    return sha256(b"oubli/prompt/1", backbone_digest.encode(), training.digest().encode(), ordered)


FORMATS = ("JPEG", "PNG", "WEBP", "HEIC", "AVIF", "GIF", "BMP", "TIFF", "PPM")  # accepted by default
KNOWN_FORMATS = (*FORMATS, "PLAIN_PPM")  # that can be accepted; PPM is the binary kinds, P4 to P6


@dataclass(frozen=True)
class ImageLimits:
    """Which images are accepted, and how much of one is kept (`models.image`).

    formats  some of `KNOWN_FORMATS`.
    """

    max_pixels: int = 50_000_000
    max_aspect: float = 20.0
    max_side: int = 512  # of the shorter side, once decoded; larger images are reduced
    formats: tuple[str, ...] = FORMATS

"""Samples as methods see them: their pixels, and what the frozen backbone says of them, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.backbone import Backbone
from models.descriptor import Descriptor
from models.embedding import BATCH, Embedding, describe, embed
from models.image import pixel_digest
from models.spec import member_digest, sha256
from models.training import TrainingExample

CHUNK = 4 * BATCH  # images


@dataclass(frozen=True)
class Pool:
    """n samples in order of arrival.

    embeddings   [n, dim], unit vectors; `mirrored` those of the images mirrored left to right.
    descriptors  [n, width], of the kind `kind`: what the closed form learns from.
    """

    members: tuple[TrainingExample, ...]
    digests: tuple[str, ...]
    embeddings: Embedding
    mirrored: Embedding
    descriptors: Descriptor
    kind: str

    def __len__(self) -> int:
        return len(self.members)

    @property
    def labels(self) -> list[str]:
        """Label of each sample."""
        return [member.label for member in self.members]

    def take(self, rows: Sequence[int]) -> Pool:
        """Some of them, in that order."""
        chosen = list(rows)
        return Pool(
            tuple(self.members[i] for i in chosen),
            tuple(self.digests[i] for i in chosen),
            self.embeddings[chosen],
            self.mirrored[chosen],
            self.descriptors[chosen],
            self.kind,
        )

    def member_digests(self, rows: Sequence[int]) -> list[str]:
        """Of pixels and label, in that order."""
        return [member_digest(self.digests[i], self.members[i].label) for i in rows]


def describe_pool(
    backbone: Backbone,
    members: Sequence[TrainingExample],
    *,
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Pool:
    """Embed images and their mirror images. Kept in `folder`, by the backbone and the images."""
    digests = tuple(pixel_digest(member.pixels) for member in members)
    kind = backbone.kind.name
    name = sha256(b"oubli/pool/2", kind.encode(), backbone.digest.encode(), "\n".join(digests).encode())[:16]
    kept = folder / f"{name}.npz" if folder is not None else None
    if kept is None or not kept.is_file():
        arrays = _describe(backbone, members, progress)
        if kept is not None:
            _save(kept, arrays)
    else:
        with np.load(kept, allow_pickle=False) as found:
            arrays = dict(found)
        progress(len(members))
    return Pool(tuple(members), digests, arrays["embeddings"], arrays["mirrored"], arrays["descriptors"], kind)


def _describe(
    backbone: Backbone, members: Sequence[TrainingExample], progress: Callable[[int], None]
) -> dict[str, npt.NDArray[Any]]:
    plain, mirrored = [], []
    for start in range(0, len(members), CHUNK):
        images = [backbone.preprocessing.resize(member.pixels) for member in members[start : start + CHUNK]]
        plain.append(describe(backbone, images))
        mirrored.append(embed(backbone, [image.flip(2) for image in images]))
        progress(len(images))
    return {
        "embeddings": np.concatenate([part.embeddings for part in plain]),
        "descriptors": np.concatenate([part.descriptors for part in plain]),
        "mirrored": np.concatenate(mirrored),
    }


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, embeddings=arrays["embeddings"], mirrored=arrays["mirrored"], descriptors=arrays["descriptors"])
    temporary.replace(path)

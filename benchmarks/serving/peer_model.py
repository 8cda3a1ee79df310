"""The two-pass model as every peer loads it, and how they are asked to batch."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

MAX_BATCH, WAIT_SECONDS, THREADS = 64, 0.005, 2


def two_pass_model(path: str) -> Any:
    """The model of that file."""
    from benchmarks.serving import two_pass

    return two_pass.load(Path(path), threads=THREADS)


def tensors(model: Any, images: list[str]) -> list[Any]:
    """Prepared images, of images encoded in base64."""
    return [model.prepare(base64.b64decode(image)) for image in images]

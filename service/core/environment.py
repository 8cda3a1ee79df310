"""The computing environment of this process: made deterministic, proven so, and compared with that of the prompts."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from models import checkpoint, determinism, memory
from models.embedding import BATCH, embed
from models.training import TrainingExample, train
from service.core.context import Context
from service.errors import Misconfigured
from service.registry import clusters, prompts
from service.settings import Settings

log = logging.getLogger(__name__)


def configure(settings: Settings, *, threads: int) -> None:
    """Make results repeat to the bit in this process, and keep freed memory. Raises Misconfigured if they would not."""
    memory.keep_freed()
    try:
        determinism.configure(threads=threads, device=settings.device)
    except determinism.NotDeterministic as error:
        raise Misconfigured(f"Bits would not repeat here. {error}") from None


def prove(context: Context) -> None:
    """Train and embed the same noise twice, as a worker starts. Raises Misconfigured if bits differ.

    This finds a layer of the backbone that has no deterministic implementation on this device (PyTorch raises), and one
    that PyTorch takes for deterministic and that is not.
    """
    random = np.random.default_rng(0)
    size = context.backbone.input_size
    noise = [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(BATCH)]
    once = dataclasses.replace(context.training, epochs=1)
    members = [TrainingExample(pixels, label) for pixels, label in zip(noise, ("a", "b"), strict=False)]
    images = [context.backbone.preprocessing.resize(pixels) for pixels in noise]
    try:
        with determinism.unwritten_memory_is_nan():
            first = checkpoint.tensor_digest(train(context.backbone, once, key="", members=members))
        trained = {first, checkpoint.tensor_digest(train(context.backbone, once, key="", members=members))}
    except RuntimeError as error:  # "... does not have a deterministic implementation"
        raise Misconfigured(
            f"Backbone {context.backbone.name} cannot be trained on deterministically: {error}"
        ) from None
    alone, among = embed(context.backbone, images[-1:])[0], embed(context.backbone, images)[-1]
    if len(trained) > 1 or not np.array_equal(alone, among):
        what = "training" if len(trained) > 1 else "an embedding"
        raise Misconfigured(
            f"With backbone {context.backbone.name} on {context.settings.device}, {what} does not repeat to the bit: "
            "no prompt that is built here could be verified. Use another device or backbone."
        )


def fingerprint(context: Context) -> dict[str, str]:
    """The fingerprint of the environment that this process trains in."""
    return determinism.fingerprint(threads=context.settings.training.threads, device=context.settings.device)


def meet(context: Context) -> int:
    """Schedule prompts of other environments to be built again, if `training.on_new_environment` says so; how many."""
    if context.settings.training.on_new_environment == "keep":
        return 0
    ours = fingerprint(context)
    with context.registry.write(exclusive=True) as session:  # clusters are locked in no order
        foreign = [prompt.key for prompt in prompts.served(session) if prompt.fingerprint != ours]
        clusters.rebuild(session, foreign)
    if foreign:
        log.info("%d prompts were built in another environment, and are built again", len(foreign))
    return len(foreign)

"""What histories are made of: strategies and settings of Hypothesis, and pictures, which are computed once."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from service.core.intake import NewSample
from tests.layouts import MORE_LAYOUTS
from tests.world import opened

EXAMPLES = int(os.environ.get("OUBLI_EXAMPLES", "4"))
STEPS = int(os.environ.get("OUBLI_STEPS", "40"))
PICTURES = 60  # few enough that the same picture comes again
REPLICAS = ["steady", "seldom"]

owners = st.sampled_from(["ann", "bob", "cy", "dee", "eve", "flo"])
seeds = st.integers(0, 2**32 - 1)
steps = st.sampled_from(["claim", "build", "epoch 1", "publish", "store", "commit", "commit", "commit"])
places = st.integers(0, 10_000)  # of a survivor, counted around
trees = st.sampled_from([(12, 4), (8, 4), (6, 2), (12, 6), (20, 3), (2, 1)]).map(
    lambda size: {"cap": size[0], "min": size[1]}
)
partitions = trees | st.sampled_from(MORE_LAYOUTS)
some_replicas = st.sampled_from([REPLICAS, REPLICAS[:1], REPLICAS[:1], REPLICAS[1:]])


@cache
def gallery(backbone: str) -> list[NewSample]:
    """The pictures that people send, made once."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), backbone=backbone) as world:
        return world.new_samples(PICTURES)


@cache
def centroids(backbone: str) -> Path:
    """A file of public centroids."""
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "centroids.npy", np.stack([new_sample.embedding for new_sample in gallery(backbone)[:6]]))
    return folder / "centroids.npy"


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int = STEPS) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)  # nothing here need outlive a power cut
        run_state_machine_as_test(machine, settings=chosen)  # type: ignore[no-untyped-call]

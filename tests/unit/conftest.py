"""A small problem that a tiny backbone can learn: reddish and greenish noise."""

import os
from pathlib import Path

import numpy as np
import pytest

from models.spec import PromptSpec, TrainingSpec
from models.training import TrainingExample, train
from service import log

SPEC = TrainingSpec(epochs=3, batch_size=8, prompt=PromptSpec(size=3))


def toy_members(count, seed=0):
    random = np.random.default_rng(seed)
    noise = random.integers(0, 160, (count, 16, 16, 3), dtype=np.uint8)
    for index in range(count):
        noise[index, :, :, index % 2] += 60
    return [TrainingExample(pixels, ("red", "green")[index % 2]) for index, pixels in enumerate(noise)]


def bits_of(prompt):
    return b"".join(tensor.numpy().tobytes() for tensor in (prompt.values, prompt.weight, prompt.bias))


@pytest.fixture(scope="session")
def spec():
    """Three epochs of batches of 8, and a frame of 3 of 16 pixels."""
    return SPEC


@pytest.fixture(scope="session")
def toy():
    """toy(n): n members, alternately "red" and "green"; toy(n, seed=1): others."""
    return toy_members


@pytest.fixture(scope="session")
def trained(tiny, toy):
    """A prompt with two labels."""
    return train(tiny, SPEC, key="key", members=toy(20))


@pytest.fixture(scope="session")
def bits():
    """bits(prompt): all learned bytes."""
    return bits_of


@pytest.fixture
def command_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine, and a data folder of the test's own."""
    for name in [name for name in os.environ if name.startswith("OUBLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUBLI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # `oubli api` sets it
    monkeypatch.setattr(log, "configure", lambda *_: None)  # ... and other tests listen to logs

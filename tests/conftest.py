"""What all tests share: real images, two backbones, settings under which bits repeat; and in which order they run.

Two tiers are told apart by the marker `thorough` (CONTRIBUTING, "Tests in two tiers"). A mark on a module or a
test puts it there; of the contract tests' PostgreSQL half, all that does not test SQL or locking is there too
(tests/contract/conftest.py).
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from tests import times

settings.register_profile("oubli", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("oubli")

DATA = Path(__file__).resolve().parents[1] / "../shared/data"

# They start processes and take longest, so they begin first. `make test` gives each of two workers a file at a time.
LONGEST = ("stateful", "integration", "browser")


def pytest_configure(config: pytest.Config) -> None:
    """One recorder of times, in the process that all reports come to."""
    if not hasattr(config, "workerinput") and hasattr(config, "cache"):  # `make mutants` runs without one
        config.pluginmanager.register(times.Recorder(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


class Images(NamedTuple):
    """Real images in a fixed random order: uint8 [n, 32, 32, 3], and the name of what each shows."""

    pixels: npt.NDArray[np.uint8]
    labels: list[str]


@pytest.fixture(scope="session")
def images() -> Images:
    """CIFAR-10 from the folder `OUBLI_TEST_DATA`; handwritten digits, which scikit-learn brings along, without it."""
    path = Path(os.environ.get("OUBLI_TEST_DATA", DATA)) / "cifar10-small.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as data:
            pixels, names = data["test_images"], data["classes"][data["test_labels"]]
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = (digits.images * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        pixels, names = np.stack([grey] * 3, axis=-1), digits.target.astype(str)
    order = np.random.default_rng(0).permutation(len(pixels))
    return Images(pixels[order], names[order].tolist())


@pytest.fixture(scope="session")
def deterministic() -> None:
    """One thread and deterministic algorithms, for the whole process."""
    from models import determinism

    determinism.configure(threads=1, device="cpu")


@pytest.fixture(scope="session")
def tiny(deterministic):
    """The backbone that needs no weights: 16 x 16 pixels, 32 features."""
    from models.backbone import load_backbone

    return load_backbone("tiny")


@pytest.fixture(scope="session")
def real(deterministic):
    """EfficientNet-Lite0 with its ImageNet weights: 96 x 96 pixels, 1,280 features."""
    from models.backbone import load_backbone

    return load_backbone("efficientnet-lite0")

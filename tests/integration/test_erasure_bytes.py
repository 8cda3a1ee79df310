"""After an erasure has completed, nothing of the erased images is below the data folder: real backbone, real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy

from tests.integration.harness import Picture, Service

pytestmark = pytest.mark.real

FORGOTTEN = "the-forgotten"
NAME = "Wolkenstein-Trostburg"  # a label that only they gave
REAL = {"OUBLI_TRAINING__SETTLE_SECONDS": "0.2", "OUBLI_TRAINING__EPOCHS": "2", "OUBLI_PARTITION__CAP": "24",
        "OUBLI_PARTITION__MIN": "8"}  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("real"), env=REAL).start() as service:
        yield service


def traces(path: Path) -> list[bytes]:
    """What must not be found again: pixels and embedding, whole and in parts."""
    tensors = safetensors.numpy.load(path.read_bytes())
    pixels, embedding = tensors["pixels"].tobytes(), tensors["embedding"].tobytes()
    half = len(pixels) // 2
    return [pixels, pixels[:half], pixels[half:], *(embedding[at : at + 64] for at in range(0, len(embedding), 1024))]


def found_below(folder: Path, needles: list[bytes]) -> set[bytes]:
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {needle for needle in needles if needle in content}
    return found


def test_no_byte_of_an_erased_sample_is_left(real: Service, pictures: list[Picture]) -> None:
    named = [Picture(p.name, p.data, NAME if i % 8 == 0 else p.label) for i, p in enumerate(pictures[:40])]
    owners = [FORGOTTEN if i % 4 == 0 else f"owner-{i % 4}" for i in range(40)]
    samples = real.contribute(named, owners)
    clusters = real.settle()
    assert len(clusters) > 1
    assert any(NAME in cluster["labels"] for cluster in clusters)
    paths = {path.name.split(".")[0]: path for path in real.objects()}
    needles: dict[bool, list[bytes]] = {True: [], False: []}
    for sample in samples:
        needles[sample["owner"] == FORGOTTEN] += traces(paths[sample["id"]])
    needles[True] = [needle for needle in needles[True] if needle not in set(needles[False])]
    assert found_below(real.data, needles[True]) == set(needles[True])
    assert found_below(real.data, [NAME.encode()])
    prompts = {path: path.read_bytes() for path in real.objects("prompts")}
    served = {cluster["prompt"]["key"] for cluster in clusters}

    erasure = real.client.delete(f"/owners/{FORGOTTEN}").json()
    real.complete(erasure["id"])

    assert found_below(real.data, needles[True]) == set()
    assert found_below(real.data, [NAME.encode()]) == set()
    assert found_below(real.data, needles[False]) == set(needles[False])
    assert len(real.objects()) == 30
    after = {cluster["prompt"]["key"] for cluster in real.settle()}
    withdrawn = served - after
    assert withdrawn
    assert len(real.objects("prompts")) == len(after)
    # The bytes of withdrawn prompts are gone, under whatever name.
    kept = {path.read_bytes() for path in real.objects("prompts")}
    assert len(kept & set(prompts.values())) == len(served & after)


def test_the_real_backbone_learns(real: Service, pictures: list[Picture]) -> None:
    real.settle()
    listed = {sample["label"] for sample in real.pages("/samples")}
    files = [("image", (picture.name, picture.data)) for picture in pictures[:40]]
    answer = real.client.post("/predict", files=files)
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert {prediction["label"] for prediction in predictions} <= listed
    assert not any(prediction["degraded"] for prediction in predictions)
    assert NAME not in {score["label"] for prediction in predictions for score in prediction["scores"]}

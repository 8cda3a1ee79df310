"""What bits depend on, where no other test would notice its loss: one safeguard a test (`tests/safeguards/`)."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from models import determinism
from models.backbone import Backbone, Preprocessing
from models.embedding import BATCH, describe, embed
from models.router import PrototypeRouter
from models.spec import PromptSpec
from models.training import train


def test_every_epoch_visits_all_members_in_an_order_of_its_own(tiny, spec, toy, monkeypatch):
    """Without prompt and mirroring the network sees the members as they are."""
    seen = []
    features = tiny.features_folded
    monkeypatch.setattr(
        tiny, "features_folded", lambda batch: seen.extend(image.sum().item() for image in batch) or features(batch)
    )
    plain = dataclasses.replace(spec, epochs=3, batch_size=8, flip=False, prompt=PromptSpec(kind="none"))
    train(tiny, plain, key="key", members=toy(16))
    epochs = [tuple(seen[start : start + 16]) for start in (0, 16, 32)]
    assert len(set(epochs)) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1


def test_every_batch_of_embeddings_has_the_same_shape(tiny, images, monkeypatch):
    """Where the last bits depend on the shape is the processor's choice: other tests may not see it on this one."""
    shapes = []
    recorded = tiny.description
    monkeypatch.setattr(tiny, "description", lambda batch: shapes.append(len(batch)) or recorded(batch))
    resized = [tiny.preprocessing.resize(pixels) for pixels in images.pixels[: BATCH + 3]]
    for count in (1, BATCH, BATCH + 3):
        assert len(describe(tiny, resized[:count]).embeddings) == count
    assert shapes == [BATCH] * 6  # the mirror image of each takes a place too
    for count in (1, BATCH, BATCH + 3):
        assert len(embed(tiny, resized[:count])) == count
    assert shapes == [BATCH] * 10


def test_a_backbones_statistics_stand_still():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(4, (0.0,) * 3, (1.0,) * 3)
    backbone = Backbone(name="b", network=network, classifier=torch.eye(3), preprocessing=preprocessing, device="cpu")
    before = backbone.weights_digest()
    image = torch.rand((1, 3, 4, 4))
    alone = backbone.features(image)
    assert torch.equal(backbone.features(torch.cat([image, image + 9]))[:1], alone)
    assert backbone.weights_digest() == before


@pytest.mark.parametrize("nearest", [0, 1])
def test_float64_decides_where_float32_sees_a_tie(nearest):
    query = np.zeros((1, 16), dtype=np.float32)
    query[0, :2] = 1, 2**-30
    prototypes = np.zeros((2, 16), dtype=np.float32)
    prototypes[:, 0] = 1
    prototypes[nearest, 1] = 1
    assert PrototypeRouter(prototypes).nearest(query).tolist() == [nearest]


def test_the_number_of_threads_is_the_one_asked_for_whatever_the_machine_has():
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            determinism.configure(threads=threads, device="cpu")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

"""An embedding is a function of the image alone: not of its batch, its neighbours or the number of threads."""

import numpy as np
import pytest
import torch
from torch import nn

from models.backbone import Backbone, Preprocessing
from models.embedding import BATCH, DegenerateEmbedding, check, embed

BACKBONES = ["tiny", pytest.param("real", marks=pytest.mark.real)]


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def resized(backbone, images):
    return [backbone.preprocessing.resize(pixels) for pixels in images.pixels[: BATCH + 3]]


def mean_colour(std):
    """A backbone whose features are the mean of each channel, divided by std."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(4, (0.0, 0.0, 0.0), (std, std, std))
    return Backbone(name="mean", network=network, classifier=torch.eye(3), preprocessing=preprocessing, device="cpu")


def test_an_embedding_is_bit_identical_in_every_chunking(backbone, resized):
    together = embed(backbone, resized)
    for size in (1, 5, BATCH):
        chunks = [embed(backbone, resized[start : start + size]) for start in range(0, len(resized), size)]
        assert np.concatenate(chunks).tobytes() == together.tobytes()


def test_an_embedding_is_bit_identical_at_every_position_and_with_any_neighbours(backbone, resized):
    alone = embed(backbone, resized[:1]).tobytes()
    for position in (1, 7, BATCH - 1, BATCH):
        others = resized[1 : position + 1]
        batch = embed(backbone, [*others, resized[0], *resized[-2:]])
        assert batch[position].tobytes() == alone


def test_an_embedding_is_bit_identical_at_any_number_of_threads(backbone, resized):
    once = embed(backbone, resized[:BATCH])
    threads = torch.get_num_threads()
    try:
        for other in (1, 2, 3):
            torch.set_num_threads(other)
            assert embed(backbone, resized[:BATCH]).tobytes() == once.tobytes()
    finally:
        torch.set_num_threads(threads)


def test_embeddings_have_length_one_and_tell_images_apart(backbone, resized):
    embeddings = embed(backbone, resized)
    assert embeddings.shape == (len(resized), backbone.dim)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1.0)
    assert len({row.tobytes() for row in embeddings}) == len(resized)
    check(embeddings)


def test_no_images_give_no_rows(tiny):
    assert embed(tiny, []).shape == (0, tiny.dim)


def test_an_image_without_features_is_degenerate_and_its_neighbour_is_not():
    black, grey = torch.zeros((3, 4, 4), dtype=torch.uint8), torch.full((3, 4, 4), 9, dtype=torch.uint8)
    nothing, something = embed(mean_colour(std=1.0), [black, grey])
    assert np.isnan(nothing).all()
    assert np.allclose(something, 3**-0.5)
    with pytest.raises(DegenerateEmbedding, match="distinguish it from others"):
        check(nothing)


def test_features_beyond_all_numbers_are_degenerate():
    white = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    with pytest.raises(DegenerateEmbedding):
        check(embed(mean_colour(std=1e-45), [white]))

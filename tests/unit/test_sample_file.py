"""A sample's object: pixels and embedding, and nothing that has changed since they were written."""

import errno

import numpy as np
import pytest
import safetensors.numpy

from models.image import pixel_digest
from service.artifacts import ObjectMissing
from service.core import sample_file

PIXELS = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
VECTOR = np.array([0.6, 0.8], dtype=np.float32)
DIGEST = pixel_digest(PIXELS)


def test_what_was_written_is_read():
    pixels, vector = sample_file.decode(sample_file.encode(PIXELS, VECTOR), digest=DIGEST)
    assert np.array_equal(pixels, PIXELS)
    assert np.array_equal(vector, VECTOR)


def test_a_flipped_bit_is_found_wherever_it_is():
    data = sample_file.encode(PIXELS, VECTOR)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data)):
        with pytest.raises(sample_file.DamagedSample, match="recorded digest"):
            sample_file.decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], digest=DIGEST)


@pytest.mark.parametrize("vector", [VECTOR[None], VECTOR.astype(np.float64), np.array([np.nan], dtype=np.float32)])
def test_an_embedding_of_another_kind_is_refused(vector):
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": vector})
    with pytest.raises(sample_file.DamagedSample, match="its embedding is none"):
        sample_file.decode(data, digest=DIGEST)


def test_a_file_of_the_first_release_is_read():
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": VECTOR})
    assert np.array_equal(sample_file.decode(data, digest=DIGEST)[1], VECTOR)


def test_why_there_is_none_is_said_in_words():
    assert sample_file.words(ObjectMissing("samples/x")) == "its file is missing"
    assert sample_file.words(OSError(errno.EIO, "Input/output error")) == "its file cannot be read (Input/output error)"

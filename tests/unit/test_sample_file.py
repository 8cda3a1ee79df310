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
DESCRIPTOR = np.array([0.0, 1.0, 0.0], dtype=np.float32)
DIGEST = pixel_digest(PIXELS)


def test_what_was_written_is_read():
    data = sample_file.encode(PIXELS, VECTOR, DESCRIPTOR)
    pixels, vector, descriptor = sample_file.decode(data, digest=DIGEST)
    assert np.array_equal(pixels, PIXELS)
    assert np.array_equal(vector, VECTOR)
    assert np.array_equal(descriptor, DESCRIPTOR)
    assert np.array_equal(sample_file.descriptor(data), DESCRIPTOR)


def test_a_flipped_bit_is_found_wherever_it_is():
    data = sample_file.encode(PIXELS, VECTOR, DESCRIPTOR)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data)):
        with pytest.raises(sample_file.DamagedSample, match="recorded digest"):
            sample_file.decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], digest=DIGEST)


@pytest.mark.parametrize("vector", [VECTOR[None], VECTOR.astype(np.float64), np.array([np.nan], dtype=np.float32)])
def test_an_embedding_of_another_kind_is_refused(vector):
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": vector})
    with pytest.raises(sample_file.DamagedSample, match="its embedding is not a vector"):
        sample_file.decode(data, digest=DIGEST)


def test_a_file_of_the_first_release_is_read():
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": VECTOR})
    contents = sample_file.decode(data, digest=DIGEST)
    assert np.array_equal(contents.embedding, VECTOR)
    assert contents.descriptor is sample_file.descriptor(data) is None


def test_why_there_is_none_is_said_in_words():
    assert sample_file.words(ObjectMissing("samples/x")) == "its file is missing"
    assert sample_file.words(OSError(errno.EIO, "Input/output error")) == "its file cannot be read (Input/output error)"

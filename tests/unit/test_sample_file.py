"""A sample's object: pixels and embedding, and nothing that has changed since they were written."""

import errno

import numpy as np
import pytest
import safetensors.numpy

from models.descriptor_kind import QUICK
from models.image import pixel_digest
from service.artifacts import ObjectMissing
from service.core import sample_file

PIXELS = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
VECTOR = np.array([0.6, 0.8], dtype=np.float32)
DESCRIPTOR = np.array([0, 1 << 14, -3], dtype=np.int16)
KIND = "a kind/1"
DIGEST = pixel_digest(PIXELS)


def test_what_was_written_is_read():
    data = sample_file.encode(PIXELS, VECTOR, DESCRIPTOR, kind=KIND)
    pixels, vector, descriptor, kind = sample_file.decode(data, digest=DIGEST)
    assert np.array_equal(pixels, PIXELS)
    assert np.array_equal(vector, VECTOR)
    assert np.array_equal(descriptor, DESCRIPTOR)
    assert (descriptor.dtype, kind) == (np.int16, KIND)
    assert np.array_equal(sample_file.descriptor(data, kind=KIND), DESCRIPTOR)
    assert sample_file.descriptor(data, kind="another kind/1") is None


def test_a_flipped_bit_is_found_wherever_it_is():
    data = sample_file.encode(PIXELS, VECTOR, DESCRIPTOR, kind=KIND)
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
    assert contents.descriptor is contents.kind is sample_file.descriptor(data, kind=QUICK) is None


def test_a_file_of_a_release_that_knew_quick_descriptors_alone_is_read():
    unit = np.array([0.6, -0.8], dtype=np.float32)
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": VECTOR, "descriptor": unit})
    contents = sample_file.decode(data, digest=DIGEST)
    assert contents.kind == QUICK
    assert contents.descriptor.tolist() == [round(0.6 * 2**14), round(-0.8 * 2**14)]
    assert sample_file.descriptor(data, kind=KIND) is None


@pytest.mark.parametrize("wrong", [DESCRIPTOR[None], DESCRIPTOR.astype(np.float64), np.full(3, np.nan, np.float32)])
def test_a_descriptor_that_is_none_is_refused(wrong):
    data = safetensors.numpy.save({"pixels": PIXELS, "embedding": VECTOR, "descriptor": wrong}, {"kind": KIND})
    with pytest.raises(sample_file.DamagedSample, match="its descriptor is not a vector of finite int16 numbers"):
        sample_file.decode(data, digest=DIGEST)


def test_why_there_is_none_is_said_in_words():
    assert sample_file.words(ObjectMissing("samples/x")) == "its file is missing"
    assert sample_file.words(OSError(errno.EIO, "Input/output error")) == "its file cannot be read (Input/output error)"

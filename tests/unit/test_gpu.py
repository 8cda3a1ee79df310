"""On a GPU: bits repeat there too, and what is learned there answers as what is learned here. Skipped without one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import determinism
from models.backbone import load_backbone
from models.bank import stack
from models.checkpoint import tensor_digest
from models.embedding import BATCH, describe
from models.spec import FEATURE, PromptSpec, TrainingSpec
from models.training import TrainingExample, train

ROOT = Path(__file__).resolve().parents[2]
NOISE = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
    pytest.mark.real,
]


@pytest.fixture(scope="module")
def backbones():
    """The same backbone on the CPU and on the GPU."""
    determinism.configure(threads=1, device="cuda")
    return load_backbone("efficientnet-lite0"), load_backbone("efficientnet-lite0", device="cuda")


def members_of(images, count):
    return [TrainingExample(pixels, label) for pixels, label in zip(images.pixels[:count], images.labels, strict=False)]


def resized(backbone, pixels):
    return [backbone.preprocessing.resize(image) for image in pixels]


@pytest.mark.parametrize("prompt", [PromptSpec(), PromptSpec(FEATURE, 0)])
def test_the_same_members_give_the_same_bits_whatever_was_trained_between(backbones, images, prompt):
    _, gpu = backbones
    spec, members = TrainingSpec(epochs=2, prompt=prompt), members_of(images, 70)
    with determinism.unwritten_memory_is_nan():
        first = tensor_digest(train(gpu, spec, key="key", members=members))
    train(gpu, spec, key="another", members=members[:33])
    assert tensor_digest(train(gpu, spec, key="key", members=members)) == first
    assert tensor_digest(train(gpu, spec, key="key", members=members[:-1])) != first


def test_another_process_gives_the_same_bits(backbones):
    _, gpu = backbones
    members = [TrainingExample(pixels, "ab"[index % 2]) for index, pixels in enumerate(NOISE)]
    script = f"""
from models import determinism
determinism.configure(threads=1, device="cuda")
from tests.unit.test_gpu import NOISE, Member, TrainingSpec, load_backbone, tensor_digest, train
members = [Member(pixels, "ab"[index % 2]) for index, pixels in enumerate(NOISE)]
gpu = load_backbone({gpu.name!r}, device="cuda")
print(tensor_digest(train(gpu, TrainingSpec(epochs=2), key="key", members=members)))
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == tensor_digest(train(gpu, TrainingSpec(epochs=2), key="key", members=members))


def test_an_embedding_is_the_same_with_any_neighbours_and_close_to_the_cpus(backbones, images):
    cpu, gpu = backbones
    ready = resized(gpu, images.pixels[: 2 * BATCH])
    among = describe(gpu, ready)
    for index in (0, BATCH - 1, BATCH + 3):
        alone = describe(gpu, ready[index : index + 1])
        assert np.array_equal(alone.embeddings[0], among.embeddings[index])
        assert np.array_equal(alone.descriptors[0], among.descriptors[index])
    here = describe(cpu, ready)
    assert np.allclose(here.embeddings, among.embeddings, atol=1e-3)
    assert np.allclose(here.descriptors, among.descriptors, atol=1e-3)


def test_a_prompt_learned_on_the_gpu_answers_there_as_on_the_cpu(backbones, images):
    cpu, gpu = backbones
    spec = TrainingSpec(epochs=1)
    prompt = train(gpu, spec, key="key", members=members_of(images, 64))
    ready = torch.stack(resized(gpu, images.pixels[64:96]))
    rows = torch.full((len(ready),), stack(cpu, spec, {"key": prompt}).rows["key"].index)
    here, there = (stack(each, spec, {"key": prompt}).probabilities(each, ready, rows) for each in (cpu, gpu))
    assert torch.allclose(here, there, atol=5e-3)

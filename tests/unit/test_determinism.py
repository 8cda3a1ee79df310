"""The conditions under which bits repeat."""

import os

import pytest
import torch

from models import determinism


def test_a_generator_is_seeded_by_its_context_and_by_nothing_else():
    first = torch.rand(4, generator=determinism.generator("order", "key", "0"))
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4, generator=determinism.generator("order", "key", "0")), first)
    assert not torch.equal(torch.rand(4, generator=determinism.generator("order", "key", "1")), first)
    assert not torch.equal(torch.rand(4, generator=determinism.generator("order", "key0")), first)


@pytest.fixture
def settings_restored(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    flags = (torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")
    kept = [getattr(*flag) for flag in flags]
    threads = torch.get_num_threads()
    yield
    for (owner, name), value in zip(flags, kept, strict=True):
        setattr(owner, name, value)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("settings_restored")
def test_configuration_fixes_threads_and_algorithms():
    determinism.configure(threads=2, device="cpu")
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.usefixtures("settings_restored")
def test_on_a_gpu_nothing_is_rounded_to_tf32_and_cublas_keeps_one_workspace():
    determinism.configure(threads=1, device="cuda:0")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark


def test_a_fingerprint_names_what_bits_depend_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    cpu, gpu = (determinism.fingerprint(threads=3, device=device) for device in ("cpu", "cuda:1"))
    assert set(cpu) == {"torch", "timm", "numpy", "pillow", "device", "hardware", "threads"}
    assert cpu["threads"] == "3"
    assert gpu["device"] == "cuda"
    assert gpu["hardware"].startswith("H200 / cuda")
    assert determinism.fingerprint(threads=1, device="cpu") != cpu

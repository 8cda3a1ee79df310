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


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("settings_restored", "two_gpus")
@pytest.mark.parametrize(
    ("name", "value", "device"),
    [
        ("OMP_DYNAMIC", "TRUE", "cpu"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "cpu"),
        ("DNNL_DEFAULT_FPMATH_MODE", "any", "cuda"),
        ("OMP_THREAD_LIMIT", "1", "cpu"),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", "cuda:1"),
        ("NVIDIA_TF32_OVERRIDE", "1", "cuda"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "cuda"),
    ],
)
def test_variables_under_which_bits_do_not_repeat_are_refused_by_name(monkeypatch, name, value, device):
    monkeypatch.setenv(name, value)
    with pytest.raises(determinism.NotDeterministic, match=f"{name}={value}"):
        determinism.configure(threads=2, device=device)
    monkeypatch.setenv(name, "")
    determinism.check(threads=2, device=device)


def test_a_device_that_is_not_there_is_refused(monkeypatch, two_gpus):
    with pytest.raises(determinism.NotDeterministic, match="there are 2 CUDA devices"):
        determinism.check(threads=1, device="cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(determinism.NotDeterministic, match="finds no CUDA device"):
        determinism.check(threads=1, device="cuda")


@pytest.mark.usefixtures("settings_restored", "two_gpus")
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

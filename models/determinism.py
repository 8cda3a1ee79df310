"""The conditions under which results repeat to the bit, set in one place and recorded in every artifact.

Within one environment (the same `fingerprint`), training the same members gives the same bytes. Across
environments only a tolerance can be compared. Measured: an embedding depends on the batch shape, training on the
thread count and the batch shape; both are fixed here and in `models.embedding`.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import PIL
import scipy.linalg  # noqa: F401  # its OpenBLAS must be loaded to be limited
import torch
import torch.utils.deterministic
from threadpoolctl import ThreadpoolController


class NotDeterministic(ValueError):
    """Bits would not repeat under these conditions; the message says why, and what to do."""


# Variables that libraries read, and the values under which bits repeat (compared in lower case; "" is unset).
_HARMLESS: dict[str, tuple[tuple[str, ...], str]] = {
    "OMP_DYNAMIC": (("", "false"), "OpenMP may change the number of threads from one operation to the next"),
    "ONEDNN_DEFAULT_FPMATH_MODE": (("", "strict"), "oneDNN may compute in less than float32"),
    "DNNL_DEFAULT_FPMATH_MODE": (("", "strict"), "oneDNN may compute in less than float32"),
}
_HARMLESS_ON_CUDA: dict[str, tuple[tuple[str, ...], str]] = {
    "CUBLAS_WORKSPACE_CONFIG": (("", ":4096:8", ":16:8"), "cuBLAS may choose another algorithm from run to run"),
    "NVIDIA_TF32_OVERRIDE": (("", "0"), "matrix products may be rounded to TF32"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (("", "0"), "matrix products may be rounded to TF32"),
}


def check(*, threads: int, device: str) -> None:
    """Raise NotDeterministic if this machine or its environment variables would keep bits from repeating."""
    on_cuda = device.startswith("cuda")
    if on_cuda and not torch.cuda.is_available():
        raise NotDeterministic(f"device {device}: PyTorch finds no CUDA device here. Set OUBLI_DEVICE=cpu.")
    if on_cuda and ":" in device and int(device.split(":")[1]) >= torch.cuda.device_count():
        raise NotDeterministic(f"device {device}: there are {torch.cuda.device_count()} CUDA devices here.")
    rules = _HARMLESS | (_HARMLESS_ON_CUDA if on_cuda else {})
    for name, (harmless, reason) in rules.items():
        value = os.environ.get(name, "")
        if value.lower() not in harmless:
            raise NotDeterministic(f"{name}={value}: {reason}. Unset it, or set it to {harmless[1]}.")
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdigit() and int(limit) < threads:
        raise NotDeterministic(f"OMP_THREAD_LIMIT={limit} allows fewer threads than the {threads} that are configured.")


def configure(*, threads: int, device: str) -> None:
    """Make this process deterministic. Call once, before any tensor is made. Raises NotDeterministic.

    threads  intra-op CPU threads; part of the fingerprint.
    device   "cpu" or "cuda[:n]".
    """
    check(threads=threads, device=device)
    if device.startswith("cuda"):
        # Must be set before the first cuBLAS call; see torch.use_deterministic_algorithms.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)
    # OpenBLAS spins while it waits for its other threads: on busy cores two solve ten times slower than one (measured).
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)
    torch.use_deterministic_algorithms(True)
    # That mode also fills every new tensor with NaN before it is written: a quarter to a half of a training's time
    # (measured). No bit depends on it unless an operation reads memory before it is written; a worker checks that.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def unwritten_memory_is_nan() -> Iterator[None]:
    """Within the block, an operation that reads a new tensor's memory before it is written gets NaN."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fingerprint(*, threads: int, device: str) -> dict[str, str]:
    """Everything that bits depend on besides the inputs: with equal fingerprints, bytes can be compared."""
    if device.startswith("cuda"):
        hardware = f"{torch.cuda.get_device_name(device)} / cuda {torch.version.cuda}"
    else:
        hardware = f"{platform.machine()} / {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "device": device.split(":")[0],
        "hardware": hardware,
        "threads": str(threads),
    }


def generator(*context: str) -> torch.Generator:
    """A CPU random generator that is seeded by these names, never by a counter, a clock or global state."""
    seed = hashlib.sha256("\x00".join(context).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)

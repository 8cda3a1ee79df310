"""The conditions under which bits repeat, set in one place and recorded in every artifact.

Within one environment (the same `fingerprint`), training the same members gives the same bytes. Across
environments only a tolerance can be compared. Measured: an embedding depends on the batch shape, training on the
thread count and the batch shape; both are fixed here and in `models.embedding`.
"""

from __future__ import annotations

import hashlib
import os
import platform

import numpy as np
import PIL
import timm
import torch


def configure(*, threads: int, device: str) -> None:
    """Make this process deterministic. Call once, before any tensor is made.

    threads  intra-op CPU threads; part of the fingerprint.
    device   "cpu" or "cuda[:n]".
    """
    if device.startswith("cuda"):
        # Must be set before the first cuBLAS call; see torch.use_deterministic_algorithms.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def fingerprint(*, threads: int, device: str) -> dict[str, str]:
    """What bits depend on beside the inputs. Equal fingerprints: comparable to the byte."""
    if device.startswith("cuda"):
        hardware = f"{torch.cuda.get_device_name(device)} / cuda {torch.version.cuda}"
    else:
        hardware = f"{platform.machine()} / {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "device": device.split(":")[0],
        "hardware": hardware,
        "threads": str(threads),
    }


def generator(*context: str) -> torch.Generator:
    """A CPU random generator seeded by what is built, never by a counter, a clock or global state."""
    seed = hashlib.sha256("\x00".join(context).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)

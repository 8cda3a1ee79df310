"""A tiny deterministic backbone, so that tests and dry runs need no weights.

It ships with the product, as `OUBLI_BACKBONE=tiny`: two strided convolutions with fixed pseudo-random weights, 32
features, 16 prototypes, and, as timm's networks have, an account of its stages. It distinguishes colours and edges; it
is not meant for real use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

DIM = 32
PROTOTYPES = 16


def tiny_network() -> tuple[nn.Module, Tensor]:
    """The network (images [n, 3, s, s] -> features [n, 32]) and its classifier rows [16, 32]."""
    random = torch.Generator().manual_seed(20404)  # arXiv 2404.11056
    network: Any = nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, DIM, kernel_size=3, stride=2, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.4)
    network.feature_info = [{"module": "1", "num_chs": 16}, {"module": "3", "num_chs": DIM}]
    return network, torch.randn((PROTOTYPES, DIM), generator=random)

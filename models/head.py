"""A cluster's head: one linear layer on L2-normalised features, over exactly the labels its members have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def logits(features: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Logits [n, labels] of features [n, dim], weight [labels, dim] and bias [labels].

    Features are normalised to length 1, then scaled: the backbone's feature norm (about 44) would otherwise set
    the learning rate.
    """
    return functional.linear(functional.normalize(features) * scale, weight, bias)


def gathered_logits(features: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Logits with a head for each row: features [n, dim], weight [n, labels, dim], bias [n, labels]."""
    unit = functional.normalize(features) * scale
    return torch.einsum("nd,nld->nl", unit, weight) + bias

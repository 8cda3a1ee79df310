"""BatchNorm folded into the convolution before it: the same function of the image, in fewer operations.

In eval mode a BatchNorm is one scale and one shift a channel, which a convolution's weights and bias can carry (Jacob
et al., arXiv 1712.05877, 3.2). Promises: the network handed in is never changed, and every weight that folding leaves
alone is shared with it; what is folded agrees with it on an example, or is not used. Does not promise its bits: a
folded network rounds otherwise, so nothing that positions depend on may come from one.

Pairs are found by watching one forward pass, not by the names of any architecture.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Subclasses may compute their weights anew in every pass, so only types that are known are folded. timm's are known by
# name: a network that has none of them need not wait for timm.
CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")
NORM_AND_ACTIVATION = "timm.layers.norm_act.BatchNormAct2d"
NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", NORM_AND_ACTIVATION)

# Of the largest output. EfficientNet-Lite0: 3e-6 measured; a wrong pair is off by 1e-1 or more.
TOLERANCE = 1e-4

Pair = tuple[nn.Module, nn.Module]  # a convolution and the BatchNorm that alone reads its output


def fold(network: nn.Module, example: Tensor) -> nn.Module:
    """A frozen network like `network`, in eval mode, with every BatchNorm folded that directly follows a convolution.

    example  images [n, 3, s, s] to find the pairs on, and to compare both networks on.

    `network` itself where there is nothing to fold, or where the folded one would differ by more than TOLERANCE.
    """
    if network.training or not any(_kind(module) in NORMS for module in network.modules()):
        return network
    folded = share(network)
    with torch.no_grad():
        expected, pairs = _watch(folded, example)
        if not pairs:
            return network
        for convolution, norm in pairs:
            _fold_into(convolution, norm)
        _replace(folded, {norm: _rest_of(norm) for _, norm in pairs})
        agrees = agree(folded(example), expected)
    return folded if agrees else network


def is_batch_norm(module: nn.Module) -> bool:
    """Whether it is a norm that can be folded."""
    return _kind(module) in NORMS


def split_activation(module: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """A module without the activation that is part of it, sharing its weights, and that activation; None for none."""
    if _kind(module) != NORM_AND_ACTIVATION:
        return module, None
    whole: Any = module
    norm = nn.BatchNorm2d(whole.num_features, eps=whole.eps, affine=whole.affine).requires_grad_(False).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(norm, name, getattr(whole, name))
    return norm, _rest_of(whole)


def share(network: nn.Module) -> nn.Module:
    """A copy of the modules that shares parameters and buffers with the network."""
    tensors = chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, memo={id(tensor): tensor for tensor in tensors})


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that read each tensor, by identity. Every tensor is kept: an id names one object only."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()
        self._kept: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.counts.update({id(tensor) for tensor in read})
        self._kept += read
        return func(*args, **(kwargs or {}))


def _watch(network: nn.Module, example: Tensor) -> tuple[Tensor, list[Pair]]:
    """The network's output, and the pairs in it: each module called once, the tensor between them read once."""
    calls: Counter[nn.Module] = Counter()
    outputs: list[tuple[nn.Module, Tensor]] = []
    inputs: list[tuple[nn.Module, Tensor]] = []

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        outputs.append((module, output))

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[module] += 1
        inputs.append((module, args[0]))

    uses = _Uses()
    with ExitStack() as stack:
        for module in network.modules():
            if _kind(module) in CONVOLUTIONS and not _is_hooked(module):
                stack.callback(module.register_forward_hook(after).remove)
            elif _kind(module) in NORMS and not _is_hooked(module) and _is_constant(module):
                stack.callback(module.register_forward_pre_hook(before).remove)
        stack.enter_context(uses)
        result = network(example)
    made_by = {id(output): module for module, output in outputs}
    answered = {id(leaf) for leaf in tree_leaves(result)}
    pairs = [
        (made_by[id(tensor)], norm)
        for norm, tensor in inputs
        if id(tensor) in made_by and id(tensor) not in answered and uses.counts[id(tensor)] == 1
    ]
    return result, [pair for pair in pairs if all(calls[module] == 1 for module in pair)]


def _kind(module: nn.Module) -> str:
    """The full name of the module's exact type."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_hooked(module: nn.Module) -> bool:
    """Whether hooks look at the module's inputs or outputs, or compute its weights just before."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_constant(norm: Any) -> bool:
    """Whether a norm's statistics are recorded ones, not those of the batch."""
    return not (norm.training or norm.running_mean is None or norm.running_var is None)


def _fold_into(convolution: Any, norm: Any) -> None:
    """Fold a norm into its convolution, in float64, rounded once."""

    def double(tensor: Any) -> Any:
        return None if tensor is None else tensor.detach().double()

    folded = fuse_conv_bn_weights(
        double(convolution.weight),
        double(convolution.bias),
        double(norm.running_mean),
        double(norm.running_var),
        norm.eps,
        double(norm.weight),
        double(norm.bias),
    )
    for name, value in zip(("weight", "bias"), folded, strict=True):
        rounded = value.detach().to(convolution.weight.dtype)
        setattr(convolution, name, nn.Parameter(rounded, requires_grad=False))


def _rest_of(norm: Any) -> nn.Module:
    """The part of a norm that remains after folding: its activation, if it has one."""
    if _kind(norm) == NORM_AND_ACTIVATION:
        parts = [part for part in (norm.drop, norm.act) if not isinstance(part, nn.Identity)]
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    return nn.Identity()


def _replace(network: nn.Module, substitutes: dict[nn.Module, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in substitutes:
                setattr(parent, name, substitutes[child])


def agree(actual: Tensor, expected: Tensor) -> bool:
    """Whether two outputs differ by no more than rounding does."""
    difference = (actual - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())

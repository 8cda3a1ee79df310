"""A frozen network in two parts at a cut: what lies before it is computed once, what lies after it can be adapted.

The late part has a *site* after each of its normalisations (of a network without BatchNorm, after its linear layers and
convolutions as well), where every channel is scaled and shifted: feature prompts (SSF; Lian et al., arXiv 2210.08823).
Each row of a batch may have its own. Promises: the network handed in is never changed, and every weight is shared with
it; the parts together give what the whole network gives, or there is no cut. Does not promise its bits, for the late
part is folded (`models.folding`).

The parts are found by watching one forward pass, not by the names of any architecture.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.depths import Depths, Stage, find_units
from models.folding import agree, fold, is_batch_norm, share, split_activation
from models.recording import Recording


class CannotCut(ValueError):
    """The network has no such cut; the message says why."""


class LatePart:
    """The two parts of one network at one cut. Safe to use from several threads.

    cut    how many of the network's blocks or stages lie before it.
    width  channels of all sites together: a feature prompt is float32 [2, width], what is added to scales of one and
           to shifts of zero.
    shape  of one image's activations at the cut.
    """

    def __init__(self, network: nn.Module, cut: int | None, example: Tensor) -> None:
        """`example` are normalised images [n, 3, s, s] to watch the network on. Raises CannotCut."""
        self._early = share(network)
        end, self.cut = end_of(self._early, cut)
        end.register_forward_hook(self._stop)
        self._given = _Given()
        with torch.no_grad():
            activations, late, self.width = _late_part(network, self.cut, example, self._given)
            self.shape = tuple(activations.shape[1:])
            self._format = _format(activations)
            self._late = fold(late, activations)
        self._example = activations
        self._stages = _named_stages(network, self.cut)
        self._prefix = next((int(m.num_prefix_tokens) for m in network.modules() if hasattr(m, "num_prefix_tokens")), 0)  # type: ignore[arg-type]

    def early(self, images: Tensor) -> Tensor:
        """Activations [n, ...] at the cut, of normalised images [n, 3, s, s]; what lies after it is not computed."""
        try:
            self._early(images.to(memory_format=torch.channels_last))
        except _Reached as reached:
            return reached.activations
        raise CannotCut("The network did not come to its own cut.")

    def late(self, activations: Tensor, values: Tensor) -> Tensor:
        """Features [n, dim] of activations [n, ...], adapted by prompts [n, 2, width], or by one for all [1, 2, width].

        Differentiable in the prompts. Prompts of zeros give the frozen network's own features.
        """
        self._given.values = values
        try:
            features: Tensor = self._late(activations.to(memory_format=self._format))
            return features
        finally:
            self._given.values = None

    @cached_property
    def depths(self) -> Depths:
        """The parts of a `rich` descriptor of the late part: means of its blocks, deviations of its stages."""
        found = [
            Stage(tuple(self._late.get_submodule(name) for name in names), channels) for names, channels in self._stages
        ]
        return Depths(self._late, "rich", self._example, prefix=self._prefix, stages=found)

    def read(self, activations: Tensor, values: Tensor) -> list[Tensor]:
        """The parts [n, width], by `depths`, of what `late` computes."""
        return self.depths.read(activations, lambda given: self.late(given, values))[1]

    @cached_property
    def inference(self) -> Recording:
        """`late`, without Python's lock."""
        return Recording(lambda activations, values: (self.late(activations, values),))

    def _stop(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        raise _Reached(output)


class _Reached(Exception):
    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.activations = activations


class _Given(threading.local):
    """The prompts [n or 1, 2, width] of the pass that this thread computes; None: no site does anything."""

    values: Tensor | None = None

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # a folded copy of the network is given the same


class Site(nn.Module):
    """A scale and a shift of each channel of the maps it is given.

    channels  their places in a prompt.
    last      whether channels are the maps' last dimension, not their second.
    """

    def __init__(self, given: _Given, channels: slice, *, last: bool) -> None:
        super().__init__()
        self._given, self._channels, self._last = given, channels, last

    def forward(self, maps: Tensor) -> Tensor:
        """The maps, as before."""
        values = self._given.values
        if values is None:
            return maps
        own = values[:, :, self._channels]  # [n or 1, 2, channels]
        shape = [own.shape[0], *([1] * (maps.dim() - 2))]
        shape.insert(maps.dim() - 1 if self._last else 1, own.shape[2])
        return torch.addcmul(own[:, 1].reshape(shape), maps, 1.0 + own[:, 0].reshape(shape))


class _Passed(nn.Module):
    """In place of a module that lies before the cut."""

    def forward(self, given: Any, *_more: object, **_named: object) -> Any:
        return given


def default_cut(blocks: int) -> int:
    """How many of so many blocks or stages lie before the cut unless one is given: 3 of 7, 5 of 12, 2 of 4, 1 of 2."""
    return max(1, (3 * blocks + 3) // 7)


def end_of(network: nn.Module, cut: int | None) -> tuple[nn.Module, int]:
    """The module whose output is the activations at the cut, and the cut. Raises CannotCut."""
    units = find_units(network)
    if len(units) < 2:
        raise CannotCut("Nothing says what the blocks of this backbone are, so it has no cut for feature prompts.")
    chosen = default_cut(len(units)) if cut is None else cut
    if not 0 < chosen < len(units):
        raise CannotCut(f"The cut must be 1 to {len(units) - 1} for this backbone, not {chosen}.")
    return units[chosen - 1].end, chosen


def _named_stages(network: nn.Module, cut: int) -> list[tuple[list[str], int | None]]:
    """Stages after the cut, as names of their blocks, with their channels; before them the one that ends at the cut."""
    names = {module: name for name, module in network.named_modules()}
    before, *after = find_units(network)[cut - 1 :]
    stages = [Stage((before.end,), before.channels), *after]
    return [([names[block] for block in stage.blocks], stage.channels) for stage in stages]


@dataclass
class _Pass:
    """What one pass did: modules that ended before the cut, that had begun by then, and outputs of those after it."""

    before: set[nn.Module] = field(default_factory=set)
    begun: set[nn.Module] = field(default_factory=set)
    after: dict[nn.Module, Any] = field(default_factory=dict)
    activations: Tensor | None = None
    result: Tensor | None = None


def _late_part(network: nn.Module, cut: int, example: Tensor, given: _Given) -> tuple[Tensor, nn.Module, int]:
    """The activations of the example, the late part with its sites, and their channels."""
    late = share(network)
    end, _ = end_of(late, cut)
    seen = _watch(late, end, example)
    if not isinstance(seen.activations, Tensor) or seen.result is None:
        raise CannotCut("What this backbone computes at the cut is not one tensor.")
    _pass_over(late, seen)
    try:
        same = agree(late(seen.activations), seen.result)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CannotCut(f"What lies after the cut does not work alone: {error}") from None
    if not same:
        raise CannotCut("What lies after the cut needs more than the activations there.")
    width = _add_sites(late, seen, given)
    if not width:
        raise CannotCut("Nothing after the cut can be scaled and shifted.")
    return seen.activations, late, width


def _watch(network: nn.Module, end: nn.Module, example: Tensor) -> _Pass:
    seen = _Pass()

    def begin(module: nn.Module, _inputs: object) -> None:
        if seen.activations is None:
            seen.begun.add(module)

    def finish(module: nn.Module, _inputs: object, output: Any) -> None:
        if seen.activations is not None:
            seen.after[module] = output
            return
        seen.before.add(module)
        if module is end:
            seen.activations = output

    with ExitStack() as stack:
        for module in network.modules():
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(finish).remove)
        seen.result = network(example)
    return seen


def _pass_over(module: nn.Module, seen: _Pass) -> None:
    """Let everything that ended before the cut pass on what it is given."""
    if hasattr(module, "_pos_embed"):  # of timm's ViTs: the one step between blocks that is no module
        vit: Any = module
        vit._pos_embed = lambda tokens: tokens
    for name, child in list(module.named_children()):
        if child in seen.before:
            setattr(module, name, _Passed())
        elif child in seen.begun:
            _pass_over(child, seen)


# --------------------------------------------------------------------------------------------------------- sites


def _add_sites(network: nn.Module, seen: _Pass, given: _Given) -> int:
    """Put sites behind the modules that ran after the cut; how many channels they have together."""
    ran = [module for module in seen.after if module in set(network.modules())]
    norms = [module for module in ran if is_batch_norm(module)]
    chosen = norms or [module for module in ran if _is_norm(module) or isinstance(module, nn.Linear | nn.Conv2d)]
    width = 0
    substitutes: dict[nn.Module, nn.Module] = {}
    for module in chosen:
        found = _channels(module, seen.after[module])
        if found is None:
            continue
        channels, last = found
        site = Site(given, slice(width, width + channels), last=last)
        width += channels
        first, rest = split_activation(module)
        substitutes[module] = nn.Sequential(first, site, *([] if rest is None else [rest])).eval()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in substitutes:
                setattr(parent, name, substitutes[child])
    return width


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.dim() == 1


def _channels(module: nn.Module, output: Any) -> tuple[int, bool] | None:
    """How many channels the module's output has, and whether they are its last dimension."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        return None
    if isinstance(module, nn.Linear | nn.Conv2d):
        count = module.weight.shape[0]
    else:
        count = getattr(module, "num_features", None) or len(module.weight)  # type: ignore[arg-type]
    name = type(module).__name__
    last = not (isinstance(module, nn.Conv2d | nn.GroupNorm) or is_batch_norm(module) or "2d" in name)
    return (int(count), last) if output.shape[-1 if last else 1] == count else None


def _format(activations: Tensor) -> torch.memory_format:
    """The layout in memory that the network itself gives them."""
    channels_last = activations.dim() == 4 and not activations.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format

"""What a network sees at several depths: statistics of the feature maps of its blocks, read by hooks in one pass.

Blocks and stages are those that an EfficientNet or a MobileNet calls `blocks`, of any other network those that timm's
`feature_info` names. The first block sees edges and colours alone, so it and the first stage are left out. Hooks only
read, so the network's own output keeps its bits.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from models.descriptor_kind import Features

MOST: dict[Features, int] = {"rich": 4_096, "richest": 8_192}  # entries; a solve costs the cube of their number
SUMMARY = 1_024  # entries that are enough for a head of the meantime
QUARTERED = 5  # stages
ISOTROPIC = 8  # a network with more stages than that is a row of equal blocks, as a ViT is


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks with maps of one shape; `channels` of its output, None if maps have their channels first."""

    blocks: tuple[nn.Module, ...]
    channels: int | None = None

    @property
    def end(self) -> nn.Module:
        """The last block, whose output is the stage's."""
        return self.blocks[-1]


def _means(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def _deviations(maps: Tensor) -> Tensor:
    return maps.std((2, 3), correction=0)


def _quarters(maps: Tensor) -> Tensor:
    return adaptive_avg_pool2d(maps, 2).flatten(1)


@dataclass(frozen=True)
class DescriptorPart:
    """A statistic of the maps of one block: `reading` maps [n, channels, height, width] gives [n, width]."""

    block: nn.Module
    stage: Stage
    reading: Callable[[Tensor], Tensor]
    width: int = 0


class Depths:
    """The parts of the descriptors of one network. Safe to use from several threads.

    parts    in the order in which their entries follow each other; none where the network's blocks are not known.
    summary  which entries are channel means of the last stages: of the last, and of as many before it as make no more
             than `SUMMARY`. None if that is all entries, or no one.
    """

    def __init__(
        self,
        network: nn.Module,
        features: Features,
        example: Tensor,
        *,
        prefix: int = 0,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        """`example` are images [1, 3, s, s] to see the network at work on; `stages`: None for those it has."""
        self._network = network
        self._prefix = prefix
        self._seen = threading.local()  # `receive`: what the hooks call, per thread
        self._parts_of: dict[nn.Module, list[int]] = defaultdict(list)  # places of the parts that read a block
        stages = find_stages(network) if stages is None else stages
        candidates = _candidates(network, stages, features)
        hooks = {block: block.register_forward_hook(self._note) for block in {part.block: None for part in candidates}}
        self.parts = _fitting(self._measured(candidates, example), stages, features)
        for place, part in enumerate(self.parts):
            self._parts_of[part.block].append(place)
        for block, hook in hooks.items():
            if block not in self._parts_of:
                hook.remove()
        self.summary = _summary(self.parts, stages)

    @property
    def widths(self) -> list[int]:
        """Entries of each part."""
        return [part.width for part in self.parts]

    def name_of(self, block: nn.Module) -> str | None:
        """The name that a block has in the network."""
        return next((name for name, module in self._network.named_modules() if module is block), None)

    def read(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The network's output for normalised images [n, 3, s, s], and each part [n, width], in one pass.

        compute  gives the output by calling the network once.
        """
        read: dict[int, Tensor] = {}

        def receive(block: nn.Module, maps: Any) -> None:
            for place in self._parts_of[block]:
                part = self.parts[place]
                read[place] = part.reading(self._channels_first(maps, part.stage))

        features = self._watch(lambda: compute(images), receive)
        return features, [read[place] for place in range(len(self.parts))]

    def _watch(self, compute: Callable[[], Tensor], receive: Callable[[nn.Module, Any], None]) -> Tensor:
        self._seen.receive = receive
        try:
            return compute()
        finally:
            self._seen.receive = None

    def _note(self, block: nn.Module, _inputs: object, output: object) -> None:
        receive = getattr(self._seen, "receive", None)
        if receive is not None:
            receive(block, output)

    def _measured(self, candidates: Sequence[DescriptorPart], example: Tensor) -> list[DescriptorPart]:
        """Those whose block gives maps, with their widths."""
        if not candidates:
            return []
        seen: dict[nn.Module, Any] = {}
        with torch.inference_mode():
            self._watch(lambda: self._network(example), seen.__setitem__)
            measured = []
            for part in candidates:
                maps = seen.get(part.block)
                if isinstance(maps, Tensor) and maps.dim() in (3, 4):
                    entries = part.reading(self._channels_first(maps, part.stage)).shape[1]
                    measured.append(replace(part, width=int(entries)))
        return measured

    def _channels_first(self, maps: Tensor, stage: Stage) -> Tensor:
        """Maps [n, channels, height, width], of such maps, of [n, height, width, channels], or of tokens."""
        if maps.dim() == 3:  # [n, tokens, channels]
            tokens = maps[:, self._prefix :].transpose(1, 2)  # [n, channels, places]
            side = math.isqrt(tokens.shape[2])
            rows = side if side * side == tokens.shape[2] else 1
            return tokens.reshape(*tokens.shape[:2], rows, tokens.shape[2] // rows)
        if stage.channels is not None and maps.shape[1] != stage.channels == maps.shape[3]:
            return maps.permute(0, 3, 1, 2)
        return maps


def find_stages(network: nn.Module) -> list[Stage]:
    """The stages of a network, in order; none where neither it nor timm says what they are.

    Of a row of equal blocks, the last block of each quarter.
    """
    stages = _every_stage(network)
    if len(stages) > ISOTROPIC:
        return [stages[len(stages) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
    return stages


def find_units(network: nn.Module) -> list[Stage]:
    """The stages of a network or, of a row of equal blocks, every block; of the first module in it that has any."""
    return next((stages for module in network.modules() if (stages := _every_stage(module))), [])


def _every_stage(network: nn.Module) -> list[Stage]:
    if _has_sequential_stages(network):
        return [Stage(tuple(stage)) for stage in network.blocks]  # type: ignore[union-attr]
    stages = []
    for info in _feature_info(network):
        with suppress(AttributeError, KeyError, TypeError):
            module = network.get_submodule(info["module"])
            inner: Any = getattr(module, "blocks", module)
            several = isinstance(inner, nn.Sequential | nn.ModuleList) and len(inner) > 0
            stages.append(Stage(tuple(inner) if several else (module,), info.get("num_chs")))
    return stages


def _has_sequential_stages(network: nn.Module) -> bool:
    """Whether it is built as timm's EfficientNets and MobileNets are; their maps have the channels first."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or any(isinstance(module, nn.LayerNorm) for module in network.modules()):
        return False
    return len(blocks) > 0 and all(isinstance(stage, nn.Sequential) and len(stage) > 0 for stage in blocks)


def _feature_info(network: nn.Module) -> list[dict[str, Any]]:
    found: Any = getattr(network, "feature_info", None)
    return [info for info in found if isinstance(info, dict)] if isinstance(found, list | tuple) else []


def _candidates(network: nn.Module, stages: Sequence[Stage], features: Features) -> list[DescriptorPart]:
    """All parts of descriptors with these features, in order."""
    ends = [(stage.end, stage) for stage in stages[1:]]
    if features == "quick":
        return [DescriptorPart(*end, _means) for end in ends] if _has_sequential_stages(network) else []
    blocks = [(block, stage) for stage in stages for block in stage.blocks][1:]
    parts = [DescriptorPart(*block, _means) for block in blocks] + [DescriptorPart(*end, _deviations) for end in ends]
    return parts + ([DescriptorPart(*end, _quarters) for end in ends[-QUARTERED:]] if features == "richest" else [])


def _fitting(parts: list[DescriptorPart], stages: Sequence[Stage], features: Features) -> list[DescriptorPart]:
    """Parts with at most `MOST` entries: first the blocks within stages go, then quarters, then stages, early ones
    first."""
    drops: list[Callable[[DescriptorPart], bool]] = [lambda part: part.block is not part.stage.end]
    drops += [lambda part, of=stage: part.reading is _quarters and part.stage is of for stage in stages]  # type: ignore[misc]
    drops += [lambda part, of=stage: part.stage is of for stage in stages[:-1]]  # type: ignore[misc]
    for drop in drops:
        if sum(part.width for part in parts) <= MOST.get(features, sum(part.width for part in parts)):
            break
        parts = [part for part in parts if not drop(part)]
    return parts


def _summary(parts: Sequence[DescriptorPart], stages: Sequence[Stage]) -> npt.NDArray[np.intp] | None:
    starts = np.cumsum([0, *(part.width for part in parts)])
    chosen: list[npt.NDArray[np.intp]] = []
    for place in reversed(range(len(parts))):
        part = parts[place]
        is_mean_of_stage = part.reading is _means and part.block is part.stage.end and part.stage is not stages[0]
        if is_mean_of_stage and (not chosen or sum(map(len, chosen)) + part.width <= SUMMARY):
            chosen.append(np.arange(starts[place], starts[place + 1]))
    entries = np.concatenate(chosen[::-1]) if chosen else np.empty(0, np.intp)
    return entries if 0 < len(entries) < starts[-1] else None

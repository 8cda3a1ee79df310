"""The cuts of one backbone: their late parts, and passes that describe images and keep what was computed at a cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from models.late import LatePart, end_of
from models.recording import Recording

Result = TypeVar("Result")


class Cuts:
    """Made once for each cut, in the first thread that needs it. Safe to use from several threads.

    network   that `describe` calls; hooks that only read are put on it.
    bare      the same without hooks, to make late parts of.
    example   makes normalised images [n, 3, s, s] to watch it on.
    describe  gives the tensors of a description, in one pass of `network`.
    """

    def __init__(
        self,
        network: nn.Module,
        bare: nn.Module,
        example: Callable[[], Tensor],
        describe: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> None:
        self._network, self._bare, self._example, self._describe = network, bare, example, describe
        self._late: dict[int | None, LatePart] = {}
        self._descriptions: dict[int | None, Recording] = {}
        self._lock = threading.RLock()

    def at(self, cut: int | None) -> LatePart:
        """What lies after a cut; None for the default one. Raises CannotCut."""
        with self._lock:
            if cut not in self._late:
                self._late[cut] = LatePart(self._bare, cut, self._example())
            return self._late[cut]

    def description(self, cut: int | None) -> Recording:
        """The tensors of a description and, after them, the activations [n, ...] at the cut, in the same pass."""
        with self._lock:
            if cut not in self._descriptions:
                tap = _Tap(end_of(self._network, self.at(cut).cut)[0])

                def describe(images: Tensor) -> tuple[Tensor, ...]:
                    described, activations = tap.read(lambda: self._describe(images))
                    return (*described, activations)

                self._descriptions[cut] = Recording(describe)
            return self._descriptions[cut]


class _Tap:
    """Reads the output of one module, in passes that are computed within `read`; of others it keeps nothing."""

    def __init__(self, module: nn.Module) -> None:
        self._reading = threading.local()
        module.register_forward_hook(self._note)

    def _note(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs = getattr(self._reading, "outputs", None)
        if outputs is not None:
            outputs.append(output)

    def read(self, compute: Callable[[], Result]) -> tuple[Result, Tensor]:
        """The result, and the module's output."""
        self._reading.outputs = []
        try:
            result = compute()
            return result, self._reading.outputs[-1]
        finally:
            self._reading.outputs = None

"""Recorded forward passes, which run without Python's lock.

Eager PyTorch takes the lock anew for each of a network's hundreds of operations, and waits for it whenever a request is
being parsed: beside a Python thread that is busy for a third of the time two computing threads lose a quarter of their
speed, recorded ones a seventh; beside one busy for 60 % a half, and a fifth (decision 0012). The operations are the
same; a recording is used only if it gives exactly the bits that eager PyTorch gives.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Pass = Callable[..., tuple[Tensor, ...]]  # of one tensor or several

TRIALS = 3  # TorchScript optimises after the first run: the first and the later runs must give the same bits


class Recording:
    """A function of tensors [n, ...], recorded for all shapes that it is called with; for inference alone.

    Safe to use from several threads. On a GPU, and if a recording is impossible or gives other bits, the function
    itself is called.
    """

    def __init__(self, function: Pass) -> None:
        self._function = function
        self._chosen: dict[tuple[torch.Size, ...], Pass] = {}
        self._lock = threading.Lock()

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The result of the function, in inference mode."""
        shapes = tuple(tensor.shape for tensor in given)
        with torch.inference_mode():
            chosen = self._chosen.get(shapes)
            if chosen is None:
                with self._lock:
                    chosen = self._chosen.get(shapes)
                    if chosen is None:
                        chosen = self._chosen[shapes] = self._choose(given)
            return chosen(*given)

    def _choose(self, given: tuple[Tensor, ...]) -> Pass:
        if any(tensor.device.type != "cpu" for tensor in given):
            return self._function
        random = torch.Generator().manual_seed(0)
        examples = tuple(torch.rand(tensor.shape, generator=random) for tensor in given)
        try:
            recorded = _record(self._function, examples)
            expected = self._function(*examples)
            same = all(_equal(recorded(*examples), expected) for _ in range(TRIALS))
        except Exception as error:  # a network that cannot be recorded, or a PyTorch that no longer records
            log.warning("the forward pass cannot be recorded (%s): it runs slower beside requests", error)
            return self._function
        if not same:
            log.warning("the recorded forward pass gives other bits than the eager one: it is not used")
        return recorded if same else self._function


def _record(function: Pass, examples: tuple[Tensor, ...]) -> Pass:
    with warnings.catch_warnings():
        # Deprecated in favour of torch.export, which needs a C++ compiler at run time to do without Python.
        warnings.simplefilter("ignore")
        recorded: Pass = torch.jit.trace(function, examples, check_trace=False)  # type: ignore[no-untyped-call]
    return recorded


def _equal(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))

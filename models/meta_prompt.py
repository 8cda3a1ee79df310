"""Meta prompts: a prompt's first values from a file of DAM-VP (arXiv 2303.08138), from which LMEraser can start too.

Its files are what `torch.save` made of {"state_dict": prompter.state_dict()}: strips `pad_up`, `pad_down`
[1, 3, size, s], `pad_left`, `pad_right` [1, 3, s - 2 size, size] of a frame, or one `patch` [1, 3, size, size]. All are
read without unpickling anything but tensors. Learned on public data, they are part of the configuration, by digest.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.prompt import covered_pixels
from models.spec import PromptSpec

_STRIPS = ("pad_up", "pad_down", "pad_left", "pad_right")


def read_meta_prompt(path: Path, spec: PromptSpec, input_size: int) -> Tensor:
    """Prompt pixels float32 [3, m] of that kind and size. Raises ValueError, naming what does not fit."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise ValueError(f"{path} is not a file of tensors as torch.save writes it.") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    image = _frame(path, state, spec, input_size) if spec.kind == "padding" else _square(path, state, spec, input_size)
    return image.flatten(1)[:, covered_pixels(spec, input_size)].float()


def _frame(path: Path, state: dict[str, Any], spec: PromptSpec, size: int) -> Tensor:
    across, along = (1, 3, spec.size, size), (1, 3, size - 2 * spec.size, spec.size)
    up, down, left, right = (
        _tensor(path, state, name, shape) for name, shape in zip(_STRIPS, (across, across, along, along), strict=True)
    )
    inside = torch.zeros((1, 3, along[2], along[2]))
    return torch.cat([up, torch.cat([left, inside, right], dim=3), down], dim=2)[0]


def _square(path: Path, state: dict[str, Any], spec: PromptSpec, size: int) -> Tensor:
    patch = _tensor(path, state, "patch", (1, 3, spec.size, spec.size))
    image = torch.zeros((3, size * size))
    image[:, covered_pixels(spec, size)] = patch.float().flatten(2)[0]
    return image.view(3, size, size)


def _tensor(path: Path, state: dict[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    found = state.get(name)
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        has = list(found.shape) if isinstance(found, Tensor) else "not there"
        raise ValueError(f"{path}: {name} must be {list(shape)} for this prompt; it is {has}.")
    return found

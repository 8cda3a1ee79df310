"""Files as DAM-VP writes them give a prompt its first values; anything else is refused with what does not fit."""

import pickle

import pytest
import torch

from models.meta_prompt import read_meta_prompt
from models.prompt import covered_pixels, expand
from models.spec import PromptSpec

SIZE, FRAME = 8, 2


@pytest.fixture
def strips():
    """The state of DAM-VP's `PadPrompter`."""
    random = torch.Generator().manual_seed(0)
    across, along = (1, 3, FRAME, SIZE), (1, 3, SIZE - 2 * FRAME, FRAME)
    shapes = {"pad_up": across, "pad_down": across, "pad_left": along, "pad_right": along}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "meta.pth")
        return tmp_path / "meta.pth"

    return write


def test_four_strips_become_a_frame(strips, save):
    spec = PromptSpec(size=FRAME)
    values = read_meta_prompt(save({"state_dict": strips}), spec, SIZE)
    image = expand(values, covered_pixels(spec, SIZE), SIZE)
    assert torch.equal(image[:, :FRAME], strips["pad_up"][0])
    assert torch.equal(image[:, -FRAME:], strips["pad_down"][0])
    assert torch.equal(image[:, FRAME:-FRAME, :FRAME], strips["pad_left"][0])
    assert torch.equal(image[:, FRAME:-FRAME, -FRAME:], strips["pad_right"][0])
    assert (image[:, FRAME:-FRAME, FRAME:-FRAME] == 0).all()


@pytest.mark.parametrize("kind", ["fixed_patch", "random_patch"])
def test_a_patch_becomes_the_square(kind, save):
    patch = torch.randn((1, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    values = read_meta_prompt(save({"state_dict": {"patch": patch}}), PromptSpec(kind=kind, size=3), SIZE)
    assert torch.equal(values, patch[0].flatten(1))


def test_another_size_is_refused(strips, save):
    with pytest.raises(ValueError, match=r"pad_up must be \[1, 3, 3, 8\] .* it is \[1, 3, 2, 8\]"):
        read_meta_prompt(save({"state_dict": strips}), PromptSpec(size=3), SIZE)


def test_another_kind_is_refused(strips, save):
    with pytest.raises(ValueError, match=r"patch must be .* it is not there"):
        read_meta_prompt(save({"state_dict": strips}), PromptSpec(kind="fixed_patch", size=3), SIZE)


class _Code:
    def __reduce__(self):
        return (print, ("this was run",))


@pytest.mark.parametrize("content", [b"", b"no tensors", pickle.dumps(_Code(), 2)], ids=["empty", "text", "code"])
def test_what_is_no_file_of_tensors_is_refused_and_never_run(content, tmp_path, capsys):
    path = tmp_path / "meta.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a file of tensors"):
        read_meta_prompt(path, PromptSpec(size=FRAME), SIZE)
    assert "this was run" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_meta_prompt(tmp_path / "none.pth", PromptSpec(size=FRAME), SIZE)

"""What is public and slow is computed once, and what is read back is what was written."""

from pathlib import Path

import numpy as np
import pytest

from models.partition import make_partition
from models.public_cache import cached
from models.spec import PartitionSpec

VALUE = np.arange(12.0).reshape(3, 4)
PROTOTYPES = np.eye(8, dtype=np.float32)


class Slow:
    """Counts how often it was computed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self):
        self.count += 1
        return VALUE.copy()


def ask(folder: Path | None, slow: Slow, name: str = "value"):
    return cached(folder, name, slow, is_valid=lambda array: array.shape == VALUE.shape)


def test_it_is_computed_once_for_a_name(tmp_path: Path) -> None:
    slow = Slow()
    for _ in range(3):
        np.testing.assert_array_equal(ask(tmp_path / "new" / "folder", slow), VALUE)
    assert slow.count == 1
    ask(tmp_path / "new" / "folder", slow, "other")
    assert slow.count == 2
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["other.npy", "value.npy"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "another form", "no array"])
def test_what_is_damaged_is_computed_anew_and_written_anew(tmp_path: Path, damage: str) -> None:
    slow = Slow()
    ask(tmp_path, slow)
    path = tmp_path / "value.npy"
    data = path.read_bytes()
    if damage == "another form":
        cached(tmp_path, "value", lambda: VALUE[:1], is_valid=lambda array: array.shape == (1, 4))
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"flipped": flipped, "cut": data[:50], "emptied": b"", "no array": b"x" * 100}[damage])
    np.testing.assert_array_equal(ask(tmp_path, slow), VALUE)
    assert slow.count == 2
    assert path.read_bytes() == data
    ask(tmp_path, slow)
    assert slow.count == 2


def test_a_folder_that_cannot_be_used_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (None, tmp_path / "file"):
        slow = Slow()
        np.testing.assert_array_equal(ask(folder, slow), VALUE)
        np.testing.assert_array_equal(ask(folder, slow), VALUE)
        assert slow.count == 2


def test_a_tree_from_the_cache_is_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PartitionSpec(cap=4, min=2)
    made = [make_partition(spec, PROTOTYPES, cache=folder) for folder in (None, tmp_path, tmp_path)]
    assert len({partition.digest for partition in made}) == 1
    assert [partition.locate(PROTOTYPES, ["0" * 64] * 8).tolist() for partition in made] == [
        made[0].locate(PROTOTYPES, ["0" * 64] * 8).tolist()
    ] * 3

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("models.partition.tree.linkage", refuse)
    make_partition(spec, PROTOTYPES, cache=tmp_path)
    with pytest.raises(AssertionError, match="computed again"):  # other prototypes have a name of their own
        make_partition(spec, PROTOTYPES[::-1], cache=tmp_path)

"""A disk that can be full: a tmpfs of some megabytes, for as long as a `with` block lasts."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MEGABYTES = 24  # the embedded registry's log alone grows to four


class Disk:
    """Its own folder, and a file that takes whatever room is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """From now on not one page more can be written."""
        with open(self._filler, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))  # takes the rest, if that is less
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """There is room again."""
        self._filler.unlink()

    @contextmanager
    def full(self) -> Iterator[None]:
        """Full for as long as the block lasts."""
        self.fill()
        try:
            yield
        finally:
            self.free()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A disk of its own at that folder. Skips where we may not mount one."""
    folder.mkdir(parents=True)
    options = f"size={MEGABYTES}m,mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("A full disk needs the program mount.")
    if mounted.returncode:
        pytest.skip(f"A full disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)

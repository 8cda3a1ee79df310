"""Folders and files that their owner alone may read, whatever the umask.

A data folder holds pictures, their embeddings, who they belong to, and the admin key. What Oubli makes there it makes
with the modes below; what it finds there, left by an earlier release, by a copy or by another program, it closes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import Misconfigured

FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077  # rights of group and world


@dataclass
class Mended:
    """What others could reach: what has been closed to them, and what could not be, each with the reason."""

    closed: list[Path] = field(default_factory=list)
    left_open: dict[Path, str] = field(default_factory=dict)


def restrict_umask() -> None:
    """For this process, and for libraries that create files by themselves."""
    os.umask(OTHERS)


def make_folder(folder: Path) -> None:
    """Make it, with parents that are missing; whatever is new is its owner's alone. Raises OSError."""
    if not folder.is_dir():
        if folder.parent != folder:
            make_folder(folder.parent)
        folder.mkdir(FOLDER, exist_ok=True)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a file that is new is its owner's alone."""
    return os.open(path, flags, FILE)


def require_own(folder: Path) -> None:
    """Raise Misconfigured for a folder that other users share: closing it would take it from them."""
    with suppress(OSError):
        if folder.parent == folder or os.stat(folder).st_mode & stat.S_ISVTX:  # such as /tmp
            raise Misconfigured(f"{folder} is a folder that others use too. Name a folder for Oubli alone.")


def mend_top(root: Path) -> Mended:
    """Close a folder and what lies directly in it. Once it is closed, no other user reaches anything within."""
    mended = Mended()
    with suppress(OSError):  # it is missing, or another user's: its user reports that
        _close(root, os.stat(root), mended)
        for entry in os.scandir(root):
            with suppress(FileNotFoundError):  # a temporary file of another process
                _close(Path(entry.path), entry.stat(follow_symlinks=False), mended)
    return mended


def mend_all(root: Path) -> Mended:
    """Close everything within; symbolic links are not followed. Takes some microseconds a file."""
    mended = Mended()
    for path, found in _within(root):
        _close(path, found, mended)
    return mended


def _within(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # gone, or another user's
        return
    for entry in entries:
        with suppress(FileNotFoundError):
            yield Path(entry.path), entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _within(Path(entry.path))


def _close(path: Path, found: os.stat_result, mended: Mended) -> None:
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & OTHERS:
        return
    try:
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
    except FileNotFoundError:
        return
    except OSError as error:  # another user's, or on a disk that cannot be written to
        mended.left_open[path] = error.strerror or type(error).__name__
    else:
        mended.closed.append(path)

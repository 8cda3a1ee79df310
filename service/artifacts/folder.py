"""Objects as files below one folder.

A write goes to a temporary file beside its place, is flushed to the disk, and is renamed: readers see all or nothing,
and a crash leaves at most a temporary file, which `sweep` removes. Files and folders are their owner's alone.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from service import private
from service.artifacts.store import ObjectMissing, check_name, check_prefix

_TEMPORARY = ".tmp-"


class FolderStore:
    """A `Store` in a folder of the local file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        private.make_folder(root)

    def check(self) -> None:
        """Ask for the folder: that of a network disk may be away."""
        os.stat(self._root)

    def put(self, name: str, data: bytes) -> None:
        """Write, flush, rename, flush the folder."""
        self.put_many([(name, data)])

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Write and flush all, rename all, flush each of their folders once."""
        paths = [self._path(name) for name, _ in items]
        folders = sorted({path.parent for path in paths})
        for folder in folders:
            _make_folder(folder)
        temporaries = [path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}" for path in paths]
        try:
            for temporary, (_, data) in zip(temporaries, items, strict=True):
                _write(temporary, data)
            for temporary, path in zip(temporaries, paths, strict=True):
                os.replace(temporary, path)
        except BaseException:
            for temporary in temporaries:
                temporary.unlink(missing_ok=True)
            raise
        for folder in folders:
            _flush_folder(folder)

    def get(self, name: str) -> bytes:
        """Read the file. Raises ObjectMissing."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise ObjectMissing(name) from None

    def delete(self, name: str) -> None:
        """Unlink the file, for good: what is gone stays gone after a power loss."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _flush_folder(path.parent)

    def names(self, prefix: str) -> Iterator[str]:
        """Walk the folder. Raises OSError for one that may not be listed: it may hold objects."""
        for folder, _, files in os.walk(self._root / check_prefix(prefix), onerror=_raise_unless_gone):
            for path in map(Path(folder).joinpath, files):
                if path.is_file() and not path.name.startswith(_TEMPORARY):
                    yield self._name(path)

    def sweep(self, older_than: timedelta) -> int:
        """Unlink temporary files whose writers are gone."""
        limit = time.time() - older_than.total_seconds()
        count = 0
        for path in self._root.rglob(f"{_TEMPORARY}*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    count += 1
            except FileNotFoundError:
                continue  # its writer finished meanwhile
        return count

    def _path(self, name: str) -> Path:
        """Two levels of folders by the name's end, so that none grows to a million entries."""
        prefix, rest = check_name(name).split("/", 1)
        return self._root / prefix / rest.split(".")[0][-2:] / rest

    def _name(self, path: Path) -> str:
        """The name of the object in a file; for a file that is not from this service, its path."""
        prefix, *_, rest = path.relative_to(self._root).parts
        with suppress(ValueError):
            if self._path(f"{prefix}/{rest}") == path:
                return f"{prefix}/{rest}"
        return path.relative_to(self._root).as_posix()


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: Path) -> None:
    """With its parents. A new folder lasts only once the folder that lists it is flushed."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(private.FOLDER, exist_ok=True)
        _flush_folder(folder.parent)


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb", buffering=0, opener=private.opener) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

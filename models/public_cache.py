"""A cache on disk for public results that are slow to compute, each named by the digest of all its inputs.

Nothing private belongs here: a cache outlives the data that it was made for. Promises: an array that is read is the one
that was written, or else is computed again; a folder that cannot be read or written costs time, never an error. No
protection against an attacker who can write to the folder: the name and the checksum are no secrets.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

_CHECKSUM_BYTES = 32  # SHA-256 of what follows it in the file


def cached(folder: Path | None, name: str, compute: Callable[[], Array], *, is_valid: Callable[[Array], bool]) -> Array:
    """The array that `compute` returns, from the file `name` in `folder` if it is there.

    folder    None: no file is read or written.
    name      must contain a digest of every input, including the versions of the libraries that compute.
    is_valid  whether an array that was read has the form that `compute` returns.
    """
    if folder is None:
        return compute()
    path = folder / f"{name}.npy"
    kept = _read(path)
    if kept is not None and is_valid(kept):
        return kept
    made = compute()
    _write(path, made)
    return made


def _read(path: Path) -> Array | None:
    """The array of a file; None without a file, or if its checksum is wrong."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    checksum, payload = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if hashlib.sha256(payload).digest() != checksum:
        log.warning("%s is damaged, and is computed again", path)
        return None
    try:
        array = np.load(io.BytesIO(payload), allow_pickle=False)
    except (ValueError, EOFError):
        return None
    return array if array.dtype == np.float64 else None


def _write(path: Path, array: Array) -> None:
    """Write a file whole or not at all: several processes may start at once."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    payload = buffer.getvalue()
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, path)
    except OSError as error:
        log.info("%s cannot be written (%s): the next start computes it again", path, error.strerror)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)

"""The store protocol. One conformance suite (tests/contract/test_stores.py) holds for every implementation."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

_PREFIX = re.compile(r"[a-z]+")
_PROBE = "probes/probe"  # one name for all processes: the next one destroys what a killed process leaves of it
_NAME = re.compile(r"[a-z]+/[A-Za-z0-9_-]+(\.[a-z]+)?")


class ObjectMissing(LookupError):
    """No object of that name."""


class StoreUnavailable(OSError):
    """A store that does not answer, or not as it should, for now. `strerror` says why."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EIO, words)


class StoreRefuses(StoreUnavailable):
    """A store that answers and refuses: keys, rights, or a bucket that is missing. An operator must act."""


class Store(Protocol):
    """Named byte strings. Names look like `samples/<id>.safetensors`; they never hold anything personal.

    Safe to use from several threads. Whatever goes wrong with it is an OSError whose `strerror` is in words.
    """

    def check(self) -> None:
        """Raise OSError unless it answers just now. To be asked before what must not wait: one short request."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Keep `data` under `name`, durably and whole: no reader ever sees half of it."""
        ...

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """As `put` does with each, all durable once it answers. If it fails, some are kept; none of them is half."""
        ...

    def get(self, name: str) -> bytes:
        """The bytes under `name`. Raises ObjectMissing."""
        ...

    def delete(self, name: str) -> None:
        """Destroy what is under `name`; nothing happens if there is nothing."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """All names that begin with `prefix` (a first path segment), in no order; whatever else lies there as well."""
        ...

    def sweep(self, older_than: timedelta) -> int:
        """Destroy unfinished writes older than that; how many there were."""
        ...


def prove(store: Store) -> None:
    """Write, read and destroy something of no meaning. Raises OSError if any of it cannot be done."""
    store.put(_PROBE, b"can this be destroyed again?")
    store.get(_PROBE)
    store.delete(_PROBE)


def check_name(name: str) -> str:
    """The name itself. Raises ValueError for one that could leave the store."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid object name.")
    return name


def born(name: str) -> datetime | None:
    """When an object was named: its name holds a UUIDv7 (RFC 9562). None for an object that is not the service's."""
    try:
        milliseconds = UUID(check_name(name).rsplit("/", 1)[1].split(".")[0]).int >> 80
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def check_prefix(prefix: str) -> str:
    """The prefix itself. Raises ValueError for anything but one first path segment."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} is not a valid prefix of object names.")
    return prefix

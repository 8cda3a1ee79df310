"""Objects in memory, for tests; same behaviour as the folder by the same conformance suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from service.artifacts.store import ObjectMissing, check_name, check_prefix


class MemoryStore:
    """A `Store` that forgets everything when it goes."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def check(self) -> None:
        """It always answers."""

    def put(self, name: str, data: bytes) -> None:
        """Keep a copy."""
        self._objects[check_name(name)] = bytes(data)

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """One after the other."""
        for name, data in items:
            self.put(name, data)

    def get(self, name: str) -> bytes:
        """Raises ObjectMissing."""
        try:
            return self._objects[check_name(name)]
        except KeyError:
            raise ObjectMissing(name) from None

    def delete(self, name: str) -> None:
        """Drop it."""
        self._objects.pop(check_name(name), None)

    def names(self, prefix: str) -> Iterator[str]:
        """A snapshot of the names."""
        beginning = f"{check_prefix(prefix)}/"
        return iter([name for name in self._objects if name.startswith(beginning)])

    def sweep(self, older_than: timedelta) -> int:
        """Nothing is ever unfinished."""
        del older_than
        return 0

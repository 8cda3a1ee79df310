"""Sending pictures to be contributed, each exactly once, whatever became of an earlier run.

The service knows what is on record: every picture is sent with a number of copies (`unless_held`), and is contributed
unless so many are on record; the answer is its sample, new or old. If two files of a run are answered with the same
sample, there are more copies than was assumed, and the file is sent again with a higher number. So a folder that has
two copies of a picture makes two samples, once, in any number of runs, and no setting of this side matters.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.class_folders import ClassFile
from service.cli.answers import JsonAnswer, NotOubli, Refused, Unreachable, items
from service.cli.client import Client

MOST_BYTES = 300_000_000  # of a file; no service takes a whole request of that
NOT_FOR_US = {401, 403, 404, 405}  # no file is the cause, and every other one would be refused too
IN_A_ROW = 2  # files by themselves that got no answer, or 429 or 5xx: then it is the service
ROUNDS = 20  # of sending the same files; few are ever needed
BUSY = 429
BROKEN = 500


@dataclass(frozen=True)
class _File:
    picture: ClassFile
    data: bytes
    unless_held: int


@dataclass
class IngestCounts:
    """Outcomes of the files of a run, so far. refused: file and reason."""

    answered: int = 0
    contributed: int = 0
    refused: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def held(self) -> int:
        """How many files had a sample already."""
        return self.answered - self.contributed - len(self.refused)


class Contributor:
    """Contributes the pictures of one owner. Safe to use from several threads."""

    def __init__(self, client: Client, owner: str) -> None:
        self.counts = IngestCounts()
        self._client = client
        self._owner = owner
        self._lock = threading.Lock()
        self._alike: Counter[bytes] = Counter()  # files of the same bytes and label, so far
        self._copies: Counter[tuple[str, str]] = Counter()  # samples of the same picture and label, so far
        self._claimed: set[str] = set()  # ids of samples that a file was answered with
        self._failed_in_a_row = 0

    def send(self, pictures: Sequence[ClassFile]) -> int:
        """Contribute them all, unless they are on record; how many they are.

        A refused file is noted in `counts`, and stops no other. Raises Refused if the reason holds for all files.
        """
        pending = [file for file in map(self._read, pictures) if file is not None]
        for _ in range(ROUNDS):
            if not pending:
                return len(pictures)
            answers = self._deliver(pending)
            pending = list(self._take(zip(pending, answers, strict=True)))
        raise NotOubli("Different files are answered with one sample, again and again")

    def _read(self, picture: ClassFile) -> _File | None:
        """None if it cannot be read: that is its outcome."""
        if picture.size > MOST_BYTES:
            self._refuse(picture, f"The file is larger than {MOST_BYTES:,} bytes.")
            return None
        try:
            data = picture.path.read_bytes()
        except OSError as error:
            self._refuse(picture, f"cannot be read: {error.strerror}")
            return None
        alike = hashlib.sha256(picture.label.encode("utf-8", "surrogatepass") + b"\0" + data).digest()
        with self._lock:
            self._alike[alike] += 1
            return _File(picture, data, self._alike[alike])

    def _deliver(self, files: Sequence[_File]) -> list[JsonAnswer | Refused]:
        """An answer each, in order. A request that fails as a whole is made again, a file at a time."""
        try:
            return list(self._post(files))
        except Refused as refused:
            if refused.code in NOT_FOR_US or isinstance(refused, (NotOubli, Unreachable)):
                raise
            if len(files) == 1:
                return [self._failed_alone(refused)]
        found: list[JsonAnswer | Refused] = []
        for file in files:
            found += self._deliver([file])
        return found

    def _post(self, files: Sequence[_File]) -> list[JsonAnswer]:
        images = [("images", (f"{place}", file.data)) for place, file in enumerate(files)]
        said = [{"label": file.picture.label, "owner": self._owner, "unless_held": file.unless_held} for file in files]
        answer = self._client.request("POST", "/samples/batch", files=images, data={"metadata": json.dumps(said)})
        found = items(answer, "items", len(files))
        self._failed_in_a_row = 0
        return found

    def _failed_alone(self, refused: Refused) -> Refused:
        """The refusal of one file; raised instead, once several files in a row had no answer, or 429 or 5xx."""
        if refused.code is None or refused.code == BUSY or refused.code >= BROKEN:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= IN_A_ROW:
                raise refused
        return refused

    def _take(self, answered: Iterable[tuple[_File, JsonAnswer | Refused]]) -> Iterable[_File]:
        """Note each outcome; the files that must be sent again, because their sample is another file's."""
        again: Counter[tuple[str, str]] = Counter()
        for file, item in answered:
            if isinstance(item, Refused):
                self._refuse(file.picture, item.detail)
            elif "sample" not in item:
                self._refuse(file.picture, str(item["problem"]["detail"]))
            else:
                sample = item["sample"]
                picture = (sample["digest"], sample["label"])
                with self._lock:
                    self.counts.contributed += item["status"] == 201
                    if sample["id"] not in self._claimed:
                        self._claimed.add(sample["id"])
                        self._copies[picture] += 1
                        self.counts.answered += 1
                        continue
                    again[picture] += 1
                    number = self._copies[picture] + again[picture]
                yield _File(file.picture, file.data, number)

    def _refuse(self, picture: ClassFile, reason: str) -> None:
        with self._lock:
            self.counts.answered += 1
            self.counts.refused.append((picture.path, reason))

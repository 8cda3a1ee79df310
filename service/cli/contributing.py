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
from service.registry.records import Role

MOST_BYTES = 300_000_000  # of a file; no service takes a whole request of that
NOT_FOR_US = {401, 403, 404, 405}  # no file is the cause, and every other one would be refused too
IN_A_ROW = 2  # files of a request, each by itself, that got no answer, or 429 or 5xx: then the service is asked
MOST_IN_A_ROW = 8  # ... and then it is the service, whatever it says of itself
ROUNDS = 20  # of sending the same files; few are ever needed
BUSY = 429
BROKEN = 500
FOR_ALL = {BUSY, 507}  # of no file: a key over its budget, a queue that stays full, a full disk


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
    """Contributes the pictures of one owner, all with one role. Safe to use from several threads."""

    def __init__(self, client: Client, owner: str, role: Role = "training") -> None:
        self.counts = IngestCounts()
        self._client = client
        # An earlier release knows no roles, and refuses what it does not know.
        self._words = {"owner": owner} if role == "training" else {"owner": owner, "role": role}
        self._lock = threading.Lock()
        self._alike: Counter[bytes] = Counter()  # files of the same bytes and label, so far
        self._copies: Counter[tuple[str, str]] = Counter()  # samples of the same picture and label, so far
        self._claimed: set[str] = set()  # ids of samples that a file was answered with

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
        """An answer each, in order. A request that fails as a whole is made again, a file at a time.

        Raises Refused if the reason holds for all files, or seems to: several of them in a row had no answer, or 429 or
        5xx, and the service is not ready.
        """
        found = self._attempt(files)
        if not isinstance(found, Refused):
            return list(found)
        if len(files) == 1:
            if _may_be_the_service(found):
                self._stop_unless_ready(found, 1)
            return [found]
        answers: list[JsonAnswer | Refused] = []
        failed = 0
        for file in files:
            alone = self._attempt([file])
            failed = failed + 1 if isinstance(alone, Refused) and _may_be_the_service(alone) else 0
            if isinstance(alone, Refused) and failed >= IN_A_ROW:
                self._stop_unless_ready(alone, failed)
            answers += [alone] if isinstance(alone, Refused) else alone
        return answers

    def _attempt(self, files: Sequence[_File]) -> list[JsonAnswer] | Refused:
        """An answer each, or why there is none. Raises Refused if the reason holds for all files."""
        try:
            return self._post(files)
        except Refused as refused:
            if refused.answered in NOT_FOR_US or isinstance(refused, (NotOubli, Unreachable)):
                raise
            return refused

    def _stop_unless_ready(self, refused: Refused, failed: int) -> None:
        """Raise the refusal if it is the service that fails, and not these files."""
        if failed >= MOST_IN_A_ROW or refused.answered in FOR_ALL or not self._client.is_ready():
            raise refused

    def _post(self, files: Sequence[_File]) -> list[JsonAnswer]:
        images = [("images", (f"{place}", file.data)) for place, file in enumerate(files)]
        said = [{"label": file.picture.label, **self._words, "unless_held": file.unless_held} for file in files]
        answer = self._client.request("POST", "/samples/batch", files=images, data={"metadata": json.dumps(said)})
        return items(answer, "items", len(files))

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


def _may_be_the_service(refused: Refused) -> bool:
    """Whether the reason may hold for every file: no answer, 429 or 5xx."""
    return refused.answered is None or refused.answered == BUSY or refused.answered >= BROKEN

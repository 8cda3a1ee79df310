"""Steady traffic from honest clients: they predict, contribute and delete, try again elsewhere, and keep a journal.

A client that gets no answer, or an error of the server, tries the other replica; what it may not repeat (a batch)
it does not repeat. Every client sends pictures that no other has sent. Threads of one process: one clock.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
from PIL import Image

from models.image import decode, pixel_digest
from tests.integration.fleet import Fleet
from tests.integration.journal import OWN, Contributed, Journal, Predicted

SHARED_LABELS = 4
OPEN_OWNERS = 10
FEW, MANY = 90, 160  # samples between which deletions and contributions keep the service
TRY_SECONDS = 20.0  # of one request
GIVE_UP_SECONDS = 90.0  # of all tries of a request


@dataclass
class Owner:
    """An owner whose samples are contributed until it is closed; `busy` counts requests about its samples."""

    name: str
    busy: int = 0


@dataclass
class Picture:
    """An image file that no other client has."""

    png: bytes
    digest: str


@dataclass
class Load:
    """Threads that send requests until told to stop."""

    fleet: Fleet
    seed: int
    journal: Journal = field(default_factory=Journal)
    completed: dict[str, float] = field(default_factory=dict)  # erasure id -> when it was first seen completed

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._owners = [self._new_owner() for _ in range(OPEN_OWNERS)]
        self._lock = threading.Lock()
        self._clients = [self.fleet.client(i, timeout=TRY_SECONDS) for i in range(len(self.fleet.ports))]
        self.errors: list[BaseException] = []
        rounds: list[tuple[str, Callable[[random.Random], None], float]] = [
            ("predict-0", lambda r: self._predict(r, 0), 0.08),
            ("predict-1", lambda r: self._predict(r, 1), 0.08),
            ("contribute", self._contribute, 0.2),
            ("batch", self._contribute_batch, 1.5),
            ("delete", self._delete, 0.2),
            ("delete-owner", self._delete_owner, 2.5),
            ("watch", lambda _: self._watch(), 0.4),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(name, work, pause), name=name, daemon=True)
            for name, work, pause in rounds
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for client in self._clients:
            client.close()

    def stop(self) -> None:
        """Send nothing new; wait for the answers that are due."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(TRY_SECONDS + 5)
            assert not thread.is_alive(), thread.name

    def _run(self, name: str, work: Callable[[random.Random], None], pause: float) -> None:
        chance = random.Random(f"{self.seed}/{name}")
        while not self._stopping.wait(pause * (0.5 + chance.random())):
            try:
                work(chance)
            except BaseException as error:
                self.errors.append(error)
                raise

    # --------------------------------------------------------------------------------------------------- requests

    def _try(self, kind: str, method: str, path: str, replica: int, **arguments: Any) -> httpx.Response | None:
        """One request; None without an answer."""
        began = time.monotonic()
        answer, failure = None, None
        try:
            answer = self._clients[replica].request(method, path, **arguments)
            if answer.status_code >= 500 or answer.status_code == 429:
                failure = str(answer.status_code)
        except httpx.TransportError as error:
            failure = type(error).__name__
        self.journal.tried(kind, time.monotonic() - began, failure)
        return answer

    def _insist(
        self, kind: str, method: str, path: str, replica: int, **arguments: Any
    ) -> tuple[httpx.Response | None, bool]:
        """The first answer that says yes or no, of any replica; whether an earlier try may have been carried out."""
        doubtful, deadline, pause = False, time.monotonic() + GIVE_UP_SECONDS, 0.1
        while True:
            answer = self._try(kind, method, path, replica, **arguments)
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                return answer, doubtful
            doubtful = doubtful or answer is None or answer.status_code != 429
            if time.monotonic() > deadline or self._stopping.wait(pause):
                return None, doubtful
            replica, pause = (replica + 1) % len(self._clients), min(1.0, 2 * pause)

    # ------------------------------------------------------------------------------------------------------ predict

    def _predict(self, chance: random.Random, replica: int) -> None:
        pictures = [picture(chance) for _ in range(chance.randint(1, 4))]
        files = [("image", (f"{i}.png", p.png, "image/png")) for i, p in enumerate(pictures)]
        began = time.monotonic()
        answer = self._try("predict", "POST", "/predict", replica, files=files, params={"top_k": 1000})
        if answer is None or answer.status_code != 200:
            return
        said = answer.json()["predictions"]
        self.journal.predicted(
            Predicted(
                started=began,
                ended=time.monotonic(),
                replica=replica,
                prompts=frozenset(one["prompt"] for one in said) - {None},
                labels=frozenset(score["label"] for one in said for score in one["scores"]),
                degraded=sum(one["degraded"] for one in said),
            )
        )

    # --------------------------------------------------------------------------------------------------- contribute

    def _new_item(self, chance: random.Random, owner: Owner) -> tuple[Contributed, bytes]:
        made = picture(chance)
        label = f"{OWN}{made.digest[:16]}" if chance.random() < 0.5 else f"shared-{chance.randrange(SHARED_LABELS)}"
        return Contributed(owner.name, label, made.digest), made.png

    def _contribute(self, chance: random.Random) -> None:
        if len(self.journal.survivors) > MANY:
            return
        with self._busy(chance) as owner:
            item, png = self._new_item(chance, owner)
            self.journal.sending(item)
            answer, _ = self._insist(
                "contribute", "POST", "/samples", chance.randrange(len(self._clients)),
                files={"image": ("a.png", png, "image/png")}, data={"label": item.label, "owner": item.owner},
                headers={"Idempotency-Key": uuid4().hex},
            )  # fmt: skip
            if answer is not None and answer.status_code == 201:
                self.journal.acknowledged(answer.json())
            elif answer is not None and answer.status_code != 409:  # 409: a try that has died, or is under way
                self.journal.complain(f"POST /samples: {answer.status_code} {answer.text}")

    def _contribute_batch(self, chance: random.Random) -> None:
        if len(self.journal.survivors) > MANY:
            return
        with self._busy(chance) as owner:
            items = [self._new_item(chance, owner) for _ in range(chance.randint(2, 10))]
            for item, _ in items:
                self.journal.sending(item)
            answer = self._try(
                "batch", "POST", "/samples/batch", chance.randrange(len(self._clients)),
                files=[("images", (f"{i}.png", png, "image/png")) for i, (_, png) in enumerate(items)],
                data={"metadata": json.dumps([{"label": item.label, "owner": item.owner} for item, _ in items])},
            )  # fmt: skip
            if answer is None or answer.status_code != 200:
                return
            for result in answer.json()["items"]:
                if result["status"] == 201:
                    self.journal.acknowledged(result["sample"])
                else:
                    self.journal.complain(f"POST /samples/batch: {result}")

    # ------------------------------------------------------------------------------------------------------- delete

    def _delete(self, chance: random.Random) -> None:
        with self.journal.lock:
            listed = sorted(self.journal.survivors.items())
        with self._lock:
            open_owners = {owner.name: owner for owner in self._owners}
            mine = [(i, item) for i, item in listed if item.owner in open_owners]
            if len(listed) < FEW or not mine:
                return
            sample_id, item = chance.choice(mine)
            owner = open_owners[item.owner]
            owner.busy += 1
        try:
            self._erase("delete", f"/samples/{sample_id}", [sample_id], chance)
        finally:
            self._free(owner)

    def _delete_owner(self, chance: random.Random) -> None:
        if len(self.journal.survivors) < FEW:
            return
        with self._lock:
            owner = self._owners.pop(chance.randrange(len(self._owners)))
            self._owners.append(self._new_owner())
        while owner.busy:  # no request about this owner is under way: what is known now is all
            if self._stopping.wait(0.02):
                return
        with self.journal.lock:
            ids = [i for i, item in self.journal.survivors.items() if item.owner == owner.name]
        if ids:
            self._erase("delete", f"/owners/{owner.name}", ids, chance)

    def _erase(self, kind: str, path: str, ids: list[str], chance: random.Random) -> None:
        taken, began = self.journal.asking(ids), time.monotonic()
        answer, doubtful = self._insist(kind, "DELETE", path, chance.randrange(len(self._clients)))
        if answer is None:
            return
        if answer.status_code == 202:
            self.journal.accepted(answer.json(), taken, began=began, now=time.monotonic())
        elif answer.status_code == 404 and doubtful:
            self.journal.already_gone(taken)
        else:
            self.journal.complain(f"DELETE {path}: {answer.status_code} {answer.text}")

    # ------------------------------------------------------------------------------------------------------- follow

    def _watch(self) -> None:
        """The newest erasures that are completed."""
        for replica in range(len(self._clients)):
            answer = self._try("read", "GET", "/erasures", replica, params={"limit": 200, "state": "completed"})
            if answer is not None and answer.status_code == 200:
                now = time.monotonic()
                for erasure in answer.json()["items"]:
                    self.completed.setdefault(erasure["id"], now)
                return

    def _new_owner(self) -> Owner:
        return Owner(f"owner-{uuid4().hex[:12]}")

    @contextmanager
    def _busy(self, chance: random.Random) -> Iterator[Owner]:
        with self._lock:
            owner = chance.choice(self._owners)
            owner.busy += 1
        try:
            yield owner
        finally:
            self._free(owner)

    def _free(self, owner: Owner) -> None:
        with self._lock:
            owner.busy -= 1

    def requests(self) -> tuple[Counter[str], Counter[tuple[str, str]]]:
        """So far: tries by kind, and failures by kind and reason."""
        with self.journal.lock:
            return self.journal.requests.copy(), self.journal.failures.copy()


def picture(chance: random.Random) -> Picture:
    """Coarse coloured noise: embeddings spread, and no two are the same."""
    noise = np.frombuffer(chance.randbytes(4 * 4 * 3), np.uint8).reshape(4, 4, 3)
    image = Image.fromarray(noise).resize((24, 24), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    png = file.getvalue()
    return Picture(png, pixel_digest(decode(png)))

"""The production shape for measurements: small synthetic images on the tiny backbone, so that the service is measured,
not the network.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, TaskID

from service.cli.client import Client
from tests.integration.fleet import BRISK, Fleet
from tests.integration.load import picture

CHUNK = 100
# Clusters as large as a small service has; the rest is what an operator gets.
ENVIRONMENT = {
    **{name: BRISK[name] for name in ("OUBLI_BACKBONE", "OUBLI_TRAINING__PROMPT_SIZE", "OUBLI_TRAINING__EPOCHS")},
    "OUBLI_PARTITION__CAP": "200",
    "OUBLI_PARTITION__MIN": "40",
    "OUBLI_LOG_LEVEL": "WARNING",
}


@contextmanager
def running_fleet() -> Iterator[Fleet]:
    """Two API replicas, two workers, beat, PostgreSQL and Redis, in a throw-away folder."""
    with tempfile.TemporaryDirectory(prefix="oubli-bench-") as name, Fleet(Path(name), env=ENVIRONMENT) as fleet:
        yield fleet


def clients(fleet: Fleet) -> list[Client]:
    """One of each replica."""
    return [Client(fleet.url(index), fleet.key) for index in range(len(fleet.ports))]


def contribute(fleet: Fleet, count: int, *, seed: int, bar: Progress, task: TaskID) -> list[str]:
    """Ids of so many samples, in order of arrival."""
    chance, ids = random.Random(seed), list[str]()
    for start in range(0, count, CHUNK):
        pngs = [picture(chance).png for _ in range(min(CHUNK, count - start))]
        said = [{"label": f"label-{chance.randrange(10)}", "owner": f"owner-{chance.randrange(100)}"} for _ in pngs]
        client = clients(fleet)[(start // CHUNK) % len(fleet.ports)]
        files = [("images", ("image.png", png)) for png in pngs]
        answer = client.request("POST", "/samples/batch", files=files, data={"metadata": json.dumps(said)})
        ids += [item["sample"]["id"] for item in answer["items"]]
        bar.advance(task, len(pngs))
    return ids


def shuffled(ids: Sequence[str], *, seed: int) -> list[str]:
    """In an order that the seed repeats."""
    order = list(ids)
    random.Random(seed).shuffle(order)
    return order

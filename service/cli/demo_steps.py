"""The steps of the demo, each over HTTP as for any client: contribute, wait for training, classify, list prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from service.cli.client import Client
from service.cli.concurrency import CHUNK
from service.cli.printing import progress_bar

if TYPE_CHECKING:
    from service.cli.digits import Digit

POLL_SECONDS = 0.5


def contribute(client: Client, digits: Sequence[Digit], title: str) -> None:
    """Contribute them in order."""
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(digits))
        for chunk in _chunks(digits):
            metadata = json.dumps([{"label": digit.label, "owner": digit.owner} for digit in chunk])
            files = [("images", (f"{i}.png", digit.png)) for i, digit in enumerate(chunk)]
            client.request("POST", "/samples/batch", files=files, data={"metadata": metadata})
            bar.advance(task, len(chunk))


def wait_until_trained(client: Client, title: str) -> None:
    """Wait until every cluster serves a prompt that has seen all its samples, and nothing else."""
    with progress_bar() as bar:
        task = bar.add_task(title, total=None)
        while True:
            clusters = list(client.pages("/clusters"))
            trained = [c for c in clusters if c["prompt"] and c["prompt"]["members"] == c["samples"]]
            bar.update(task, total=len(clusters), completed=len(trained))
            if clusters and len(trained) == len(clusters) and _all_serve(client):
                return
            time.sleep(POLL_SECONDS)


def _all_serve(client: Client) -> bool:
    return set(client.request("GET", "/status")["clusters"]) == {"serving"}


def accuracy(client: Client, held_out: Sequence[Digit], title: str) -> float:
    """Share of held-out digits that are classified right, 0 to 1."""
    right = 0
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(held_out))
        for chunk in _chunks(held_out):
            files = [("image", ("digit.png", digit.png)) for digit in chunk]
            answers = client.request("POST", "/predict", files=files)["predictions"]
            pairs = zip(chunk, answers, strict=True)
            right += sum(answer["label"] == digit.label for digit, answer in pairs)
            bar.advance(task, len(chunk))
    return right / len(held_out)


def served_clusters(client: Client) -> list[dict[str, Any]]:
    """The clusters that serve a prompt."""
    return [cluster for cluster in client.pages("/clusters") if cluster["prompt"] is not None]


def prompt_digests(clusters: Sequence[dict[str, Any]]) -> set[str]:
    """Digests of the tensors of the prompts that these clusters serve."""
    return {cluster["prompt"]["digest"] for cluster in clusters}


def _chunks(items: Sequence[Digit]) -> Iterator[Sequence[Digit]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]

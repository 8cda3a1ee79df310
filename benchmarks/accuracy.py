"""The accuracy of a running service, over HTTP, on images that nothing was ever chosen on.

The training images of the CIFAR-10 subset go in through `/samples/batch`; the 2,000 test images of `cifar10-final.npz`
are asked through `/predict`. Without a worker only the closed form answers; with one, prompts answer with it once all
are trained.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.images import Labelled, data_folder, from_file
from benchmarks.main_path import accuracy_of, wait_until_served
from benchmarks.service_deletions import contribute, running_api
from service.cli.client import Client
from service.cli.demo import running_service

SERVICES: dict[str, tuple[bool, dict[str, str]]] = {  # with a worker? settings
    "rich closed form": (False, {"OUBLI_CLOSED_FORM__FEATURES": "rich"}),
    "richest closed form": (False, {"OUBLI_CLOSED_FORM__FEATURES": "richest"}),
    "as shipped": (True, {}),
}

console = Console()


def measure(*, images: int = 10_000) -> dict[str, Any]:
    """Accuracy of each service. Raises FileNotFoundError without the data sets of `OUBLI_TEST_DATA`."""
    train = from_file(data_folder() / "cifar10-small.npz", "train", images)
    test = from_file(data_folder() / "cifar10-final.npz", "test")
    wanted = os.environ.get("OUBLI_BENCH_SERVICES", ",".join(SERVICES)).split(",")
    return {"rows": [_row(name, *SERVICES[name], train, test) for name in wanted]}


def _row(
    name: str, has_worker: bool, settings: Mapping[str, str], train: Sequence[Labelled], test: Sequence[Labelled]
) -> dict[str, Any]:
    with _running(has_worker, settings) as client:
        began = time.monotonic()
        contribute(client, train)
        taken_in = time.monotonic() - began
        _wait_until_learned(client, len(train))
        if has_worker:
            wait_until_served(client)
        accuracy = accuracy_of(client, test)
    return {
        "service": name,
        "images": len(train),
        "test_images": len(test),
        "intake_seconds": taken_in,
        "accuracy": accuracy,
        "interval": 1.96 * (accuracy * (1 - accuracy) / len(test)) ** 0.5,
        "load": os.getloadavg()[0],
    }


@contextmanager
def _running(has_worker: bool, settings: Mapping[str, str]) -> Iterator[Client]:
    if has_worker:
        with running_service(0, settings) as (client, _, _):
            yield client
    else:
        with (
            tempfile.TemporaryDirectory(prefix="oubli-bench-") as name,
            running_api(Path(name), settings) as (url, key),
        ):
            yield Client(url, key)


def _wait_until_learned(client: Client, images: int) -> None:
    """Until the closed form knows them all, and has chosen lambda and temperature."""
    while (tier := client.request("GET", "/status")["closed_form"])["samples"] != images or not tier["settled"]:
        time.sleep(0.5)


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("service", "images", "test images", "accuracy", "intake, s", "load")
    for row in figures["rows"]:
        table.add_row(
            row["service"],
            f"{row['images']:,}",
            f"{row['test_images']:,}",
            f"{row['accuracy']:.4f} ± {row['interval']:.4f}",
            f"{row['intake_seconds']:.0f}",
            f"{row['load']:.1f}",
        )
    console.print(table)

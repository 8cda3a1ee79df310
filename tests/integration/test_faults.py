"""A full disk under a running service: refused in the open, nothing half accepted, and well once there is room."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.disks import Disk, small_disk
from tests.integration.harness import Picture, Service, assert_problem, oubli, until

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with small_disk(tmp_path_factory.mktemp("small") / "data") as disk:
        yield disk


@pytest.fixture(scope="module")
def cramped(disk: Disk) -> Iterator[Service]:
    with Service(disk.folder.parent).start() as service:
        yield service


def send(service: Service, picture: Picture) -> httpx.Response:
    """One image, over a connection of its own: after an unforeseen error the server closes it unannounced."""
    with service.client_with(service.key) as client:
        return client.post(
            "/samples",
            files={"image": (picture.name, picture.data, picture.media_type)},
            data={"label": picture.label, "owner": "late"},
        )


def suspended_without_lock(worker: psutil.Process, registry: Path) -> bool:
    """Whether the worker was stopped outside a transaction; one stopped inside would lock everybody out of SQLite."""
    worker.suspend()
    try:
        uri = f"{registry.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.5, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        worker.resume()
        return False
    return True


def test_a_disk_that_fills_up_before_a_training_serves_nothing_until_there_is_room(
    disk: Disk, cramped: Service, pictures: list[Picture]
) -> None:
    worker = cramped.child("worker")
    until(lambda: suspended_without_lock(worker, cramped.data / "registry.db"), what="a worker that holds no lock")
    cramped.contribute(pictures[:10], "ada")
    with disk.full():
        worker.resume()
        until(lambda: "disk is full" in cramped.log or "No space left" in cramped.log, what="a complaint in the log")
        assert cramped.digests() == []
        assert cramped.objects("prompts") == []
    clusters = cramped.settle()
    assert sum(cluster["prompt"]["members"] for cluster in clusters) == 10


def test_a_full_disk_accepts_no_image_and_still_answers(disk: Disk, cramped: Service, pictures: list[Picture]) -> None:
    cramped.contribute(pictures[10:11], "bela")
    cramped.settle()
    listed, files = cramped.pages("/samples"), cramped.objects()
    with disk.full():
        refused = send(cramped, pictures[11])
        assert refused.status_code >= 500
        assert_problem(refused, refused.status_code)
        assert cramped.pages("/samples") == listed
        assert cramped.objects() == files
        assert cramped.client.post("/predict", files={"image": ("a.png", pictures[0].data)}).status_code == 200
    assert send(cramped, pictures[11]).status_code == 201
    cramped.settle()


def test_a_full_disk_is_said_in_words(disk: Disk, cramped: Service, pictures: list[Picture]) -> None:
    with disk.full():
        assert_problem(send(cramped, pictures[12]), 507, "disk", "full")


def test_nothing_is_amiss_afterwards(cramped: Service) -> None:
    cramped.settle()
    assert list(cramped.data.rglob(".tmp-*")) == []
    done = oubli("audit", "--data", cramped.data, env=cramped.env)
    assert (done.code, done.out.splitlines()[-1:]) == (0, ["0 differences."]), done

"""A cluster that kills whoever trains it: counted by our own row, shown as failed, and tried again when told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.harness import TINY, Service, assert_problem, digit_pictures, oubli, until

pytestmark = pytest.mark.thorough

# Trainings of some seconds, and pauses that leave time to look.
ENV = {
    **TINY,
    "OUBLI_TRAINING__EPOCHS": "150",
    "OUBLI_TRAINING__BATCH_SIZE": "1",
    "OUBLI_TRAINING__RETRY_SECONDS": "3",
    "OUBLI_WORKER__LEASE_SECONDS": "6",
    "OUBLI_WORKER__HEARTBEAT_SECONDS": "1",
    "OUBLI_WORKER__RECONCILE_SECONDS": "1",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("poison"), env=ENV).start() as running:
        yield running


def kill_whoever_trains(service: Service, claimed_before: str | None) -> str | None:
    """Kill the worker in mid-training; when it had begun to train, by its own heartbeat."""

    def claimed() -> str | None:
        (worker,) = service.status()["workers"]
        at: str | None = worker["claimed_at"]
        return at if at != claimed_before else None

    at = until(claimed, what=f"a training under way\n{service.log[-2000:]}")
    service.child("worker").kill()
    return at


def test_a_cluster_that_kills_its_worker_again_and_again(service: Service, tmp_path: Path) -> None:
    service.contribute(digit_pictures(8), "ann")
    claimed: str | None = None
    for tries in range(1, 4):
        claimed = kill_whoever_trains(service, claimed)
        until(partial(counted, service, tries), what=f"try {tries} counted\n{service.log[-2000:]}")
    (cluster,) = service.pages("/clusters")
    assert cluster["state"] == "failed"
    assert "A worker process ended while it trained this" in cluster["failure"]
    assert service.status()["clusters"] == {"failed": 1}

    cli = {**ENV, "OUBLI_URL": service.url, "OUBLI_KEY": service.key}
    said = oubli("retry", env=cli)
    assert said.code == 0, said
    assert f"Cluster {cluster['id']} is tried again." in said.out
    (cluster,) = service.settle()
    assert (cluster["state"], cluster["failure"]) == ("serving", None)

    assert "No cluster has failed." in oubli("retry", env=cli).out
    path = f"/clusters/{cluster['id']}/retry"
    assert_problem(service.client.post(path), 409, "No training of cluster")
    assert_problem(service.client.post(f"/clusters/{uuid4()}/retry"), 404, "There is no cluster")
    assert oubli("retry", cluster["id"], env=cli).code == 1
    shown = oubli("status", env=cli)
    assert "deletions, additions; notified" in shown.out, shown

    reader = oubli("keys", "create", "--scopes", "read,erase", "--data", service.data, env=ENV)
    with service.client_with(reader.out.strip()) as client:
        assert_problem(client.post(path), 403)


def counted(service: Service, tries: int) -> bool:
    """Whether the registry has counted that many."""

    with closing(sqlite3.connect(f"file:{service.data / 'registry.db'}?mode=ro", uri=True, timeout=30)) as registry:
        ((attempts,),) = registry.execute("SELECT attempts FROM clusters WHERE samples > 0").fetchall()
    return bool(attempts >= tries)

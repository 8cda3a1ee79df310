"""Processes die, are told to go, or come back: nothing accepted is lost, nothing is left running, nothing loops."""

from __future__ import annotations

import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.harness import (
    STOP_SECONDS,
    TINY,
    Done,
    Picture,
    Service,
    digit_pictures,
    free_port,
    oubli,
    until,
)

# Trainings of some seconds: long enough to be caught at it.
SLOW = {**TINY, "OUBLI_TRAINING__EPOCHS": "150", "OUBLI_TRAINING__BATCH_SIZE": "1", "OUBLI_WORKER__LEASE_SECONDS": "6",
        "OUBLI_WORKER__HEARTBEAT_SECONDS": "1", "OUBLI_WORKER__RECONCILE_SECONDS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("slow"), env=SLOW) as service:
        yield service


@pytest.fixture
def slow(shared: Service) -> Service:
    """A running service; the test may end it."""
    return shared if shared.is_running else shared.start()


def training(service: Service) -> set[str]:
    """Workers that hold a cluster just now, by the registry itself."""
    with closing(sqlite3.connect(f"file:{service.data / 'registry.db'}?mode=ro", uri=True, timeout=30)) as registry:
        leased = registry.execute("SELECT leased_by FROM clusters WHERE lease_token IS NOT NULL").fetchall()
    return {name for (name,) in leased}


def is_training(service: Service) -> bool:
    return bool(training(service))


def catch_training(service: Service) -> None:
    until(lambda: is_training(service), what=f"a training under way\n{service.log[-2000:]}")


# -------------------------------------------------------------------------------------------------- sudden death


def test_a_killed_worker_is_replaced_and_its_work_done(slow: Service, pictures: list[Picture]) -> None:
    worker = slow.child("worker")
    slow.contribute(pictures[:11], "ada")
    catch_training(slow)
    worker.kill()
    until(lambda: slow.child("worker").pid != worker.pid, what="another worker")
    assert httpx.get(f"{slow.url}/health/live").status_code == 200
    clusters = slow.settle()
    assert sum(cluster["prompt"]["members"] for cluster in clusters) == 11
    assert len(slow.objects("prompts")) == len(clusters)


@pytest.mark.thorough
def test_a_stopped_worker_is_replaced_and_its_work_done(slow: Service) -> None:
    worker = slow.child("worker")
    slow.contribute(digit_pictures(130)[100:], "gus")
    catch_training(slow)
    worker.suspend()
    until(lambda: slow.child("worker").pid != worker.pid, what="another worker")
    until(lambda: not left_of([worker]), what="the end of the stopped one")
    assert "worker has been stopped for" in slow.log
    slow.settle()


@pytest.mark.thorough
@pytest.mark.parametrize("role", ["api", "beat"])
def test_whatever_is_stopped_is_replaced(slow: Service, role: str) -> None:
    child = slow.child(role)
    child.suspend()
    until(lambda: not left_of([child]), what="its end")
    until(slow.is_ready, what="/health/ready")
    assert slow.child(role).pid != child.pid
    assert f"{role} has been stopped for" in slow.log


def test_a_second_service_on_the_same_folder_is_refused(slow: Service) -> None:
    assert_refused(serve(slow.data), "Another `oubli serve` runs on")
    assert slow.is_ready()


@pytest.mark.thorough
def test_predictions_go_on_while_it_trains(slow: Service, pictures: list[Picture]) -> None:
    slow.contribute(pictures[11:20], "ada")
    before = {cluster["prompt"]["key"] for cluster in slow.settle()}
    slow.contribute(pictures[20:26], "bela")
    catch_training(slow)
    answered = 0
    while is_training(slow) and answered < 30:
        assert httpx.get(f"{slow.url}/health/live").status_code == 200
        answer = slow.client.post("/predict", files={"image": ("a.png", pictures[0].data)})
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        answered += 1
        if answered == 1:
            assert prediction["prompt"] in before
    assert answered >= 1
    slow.settle()


@pytest.mark.thorough
def test_an_api_killed_among_deletions_forgets_none(slow: Service, pictures: list[Picture]) -> None:
    many = digit_pictures(200)[60:]
    ids = [sample["id"] for sample in slow.contribute(many, "cyd")]
    api = slow.child("api")
    accepted: dict[str, str] = {}
    started = threading.Event()

    def delete_all() -> None:
        with slow.client_with(slow.key) as client:
            for sample_id in ids:
                try:
                    answer = client.delete(f"/samples/{sample_id}")
                except httpx.TransportError:
                    return
                accepted[sample_id] = answer.json()["id"]
                if len(accepted) == 10:
                    started.set()

    stream = threading.Thread(target=delete_all)
    stream.start()
    assert started.wait(60)
    api.kill()
    stream.join(60)
    assert 10 <= len(accepted) < len(ids)
    until(slow.is_ready, what="another API")
    assert slow.child("api").pid != api.pid

    leased = {sample["id"] for sample in slow.pages("/samples", owner="cyd")}
    gone = set(ids) - leased
    assert set(accepted) <= gone
    assert len(gone) <= len(accepted) + 1  # the one whose answer was cut off may have been accepted
    with closing(sqlite3.connect(f"file:{slow.data / 'registry.db'}?mode=ro", uri=True, timeout=30)) as registry:
        recorded = dict(registry.execute("SELECT sample_id, erasure_id FROM erasure_samples"))
    assert {sample_id for sample_id in ids if sample_id.replace("-", "") in recorded} == gone
    for sample_id in list(gone)[:5]:
        assert slow.client.get(f"/samples/{sample_id}").status_code == 404
    listed = {erasure["id"] for erasure in slow.pages("/erasures")}
    assert set(accepted.values()) <= listed
    slow.client.delete("/owners/cyd")
    slow.settle()
    assert {erasure["state"] for erasure in slow.pages("/erasures")} == {"completed"}
    assert len(slow.objects()) == slow.status()["samples"]


# ------------------------------------------------------------------------------------------- stopping, coming back


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.thorough
def test_it_stops_in_time_and_comes_back_as_it_was(slow: Service, pictures: list[Picture]) -> None:
    slow.contribute(pictures[26:38], [f"owner-{i % 3}" for i in range(12)])
    before = {cluster["id"]: cluster["prompt"] for cluster in slow.settle()}
    assert slow.stop(signal.SIGINT) < STOP_SECONDS
    assert slow.process.returncode == 0

    slow.start()
    assert {cluster["id"]: cluster["prompt"] for cluster in slow.settle()} == before

    # Told to go in the midst of trainings.
    slow.contribute(digit_pictures(400)[200:], "dora")
    catch_training(slow)
    assert slow.stop(signal.SIGTERM) < STOP_SECONDS
    assert slow.process.returncode == 0
    assert not is_training(slow)  # the worker gave its lease back


def test_it_stops_in_time_when_nothing_in_it_answers(slow: Service) -> None:
    """As behind a long decode or a long step of a training: SIGTERM is not heard."""
    for role in ("api", "worker", "beat"):
        slow.child(role).suspend()
    assert slow.stop(signal.SIGTERM) < STOP_SECONDS
    assert slow.process.returncode == 0


@pytest.mark.thorough
def test_embedded_workers_train_side_by_side(tmp_path: Path, pictures: list[Picture]) -> None:
    with Service(tmp_path, env={**SLOW, "OUBLI_WORKER__PROCESSES": "2"}) as service:
        service.start()
        service.contribute(pictures[:40], [f"owner-{i}" for i in range(40)])
        until(lambda: training(service) == {"embedded-1", "embedded-2"}, what="two trainings at once")
        clusters = service.settle()
        assert len(clusters) > 2
        assert all(cluster["prompt"] for cluster in clusters)
        assert {worker["name"] for worker in service.status()["workers"]} == {"embedded-1", "embedded-2"}


@pytest.mark.thorough
def test_nobody_outlives_a_killed_supervisor(slow: Service) -> None:
    slow.contribute(digit_pictures(500)[400:], "emil")
    catch_training(slow)
    family = slow.family()
    assert len(family) >= 3
    slow.process.kill()
    slow.process.wait()
    until(lambda: not left_of(family), seconds=30, what="no orphans")

    refused = serve(slow.data, env={**SLOW, "OUBLI_BACKBONE": "efficientnet-lite0", "OUBLI_INPUT_SIZE": "64"})
    assert_refused(refused, "made with backbone 'tiny'", "efficientnet-lite0", "another data folder")


# --------------------------------------------------------------------------------------------------- refusing to start


def serve(folder: Path, *, port: int | None = None, env: dict[str, str] | None = None) -> Done:
    """`oubli serve` that is expected to end by itself."""
    return oubli("serve", "--data", folder, "--port", str(port or free_port()), env=env or TINY, seconds=90)


def assert_refused(done: Done, *words: str) -> None:
    assert done.code == 2, done
    assert "Traceback" not in done.err, done.err
    assert "is started again" not in done.err, done.err  # it ends; it does not loop
    last = [line for line in done.err.splitlines() if line.startswith("oubli: ")]
    assert last, done.err
    for word in words:
        assert word in done.err, done.err


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(serve(tmp_path / "data", port=port), f"Cannot listen at 127.0.0.1:{port}")


@pytest.mark.thorough
def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    env = {**TINY, "OUBLI_DATA_DIR": str(tmp_path / "data")}
    assert oubli("migrate", env=env).code == 0
    path = tmp_path / "data" / "registry.db"
    with closing(sqlite3.connect(path)) as registry, registry:
        registry.execute("UPDATE alembic_version SET version_num = 'zzzz'")
    for command in ("serve", "worker"):
        port = ("--port", str(free_port())) if command == "serve" else ()
        assert_refused(oubli(command, *port, env=env), "zzzz", "newer")
    with closing(sqlite3.connect(path)) as registry:
        assert registry.execute("SELECT version_num FROM alembic_version").fetchall() == [("zzzz",)]


@pytest.mark.thorough
def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://oubli:secret@127.0.0.1:{free_port()}/oubli"
    done = serve(tmp_path / "data", env={**TINY, "OUBLI_DATABASE_URL": url})
    assert done.code == 1
    assert "does not answer" in done.err
    assert "secret" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"OUBLI_PARTITION__CAP": "7", "OUBLI_PARTITION__MIN": "4"}, ["partition", "cap (7)", "twice min (4)"]),
        ({"OUBLI_DEVICE": "foo"}, ["device"]),
        ({"OUBLI_DEVICE": "cuda:99"}, ["device cuda:99", "CUDA device"]),
        ({"OUBLI_TRAINING__EPOCHS": "0"}, ["training.epochs"]),
        ({"OUBLI_TRAINING__EPOCSH": "3"}, ["training.epocsh"]),
        ({"OUBLI_CONFIG": "/nowhere.toml"}, ["OUBLI_CONFIG names /nowhere.toml"]),
        ({"OUBLI_DATABASE_URL": "nonsense"}, ["OUBLI_DATABASE_URL"]),
        ({"OUBLI_BACKBONE": "nonesuch"}, ["Unknown backbone 'nonesuch'", "efficientnet-lite0"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.thorough
def test_impossible_settings_are_refused(tmp_path: Path, setting: dict[str, str], words: list[str]) -> None:
    started = time.monotonic()
    assert_refused(serve(tmp_path / "data", env={**TINY, **setting}), *words)
    assert time.monotonic() - started < 90

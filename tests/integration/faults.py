"""The faults of a drill: each happens, lasts, and is over when its `with` block ends."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from tests.disks import Disk
from tests.integration.fleet import Fleet

GARBAGE = (
    b"",
    b"not json",
    b"{}",
    b"[]",
    b"null",
    b'{"body": "bm90IGpzb24=", "headers": {}, "properties": {}}',
    b"\xff\xfe\x00",
)
REPLAYED = 60  # copies of messages, old and new


@dataclass
class Scene:
    """What faults happen to."""

    fleet: Fleet
    disk: Disk | None  # the one that holds the objects; None where none may be mounted
    chance: random.Random
    pause_seconds: float
    refuse_seconds: float


@contextmanager
def worker_killed(scene: Scene) -> Iterator[None]:
    scene.fleet.send(scene.chance.choice(scene.fleet.workers), SIGKILL)
    yield


@contextmanager
def api_killed(scene: Scene) -> Iterator[None]:
    scene.fleet.send(scene.chance.choice(scene.fleet.apis), SIGKILL)
    yield


@contextmanager
def redis_killed(scene: Scene) -> Iterator[None]:
    """Its memory is lost."""
    scene.fleet.redis.kill()
    try:
        yield
        time.sleep(scene.chance.uniform(0.5, 3.0))
    finally:
        scene.fleet.redis.start()


@contextmanager
def redis_flushed(scene: Scene) -> Iterator[None]:
    with scene.fleet.redis.client() as client:
        client.flushall()
    yield


@contextmanager
def redis_paused(scene: Scene) -> Iterator[None]:
    scene.fleet.redis.pause()
    try:
        yield
        time.sleep(scene.pause_seconds)
    finally:
        scene.fleet.redis.resume()


@contextmanager
def postgres_restarted(scene: Scene) -> Iterator[None]:
    """By an operator who does not wait, or by the kernel."""
    postgres = scene.fleet.postgres
    scene.chance.choice((postgres.immediate, postgres.kill))()
    try:
        yield
        time.sleep(scene.chance.uniform(0.2, 2.0))
    finally:
        postgres.start()


@contextmanager
def connections_cut(scene: Scene) -> Iterator[None]:
    """All of them, some times in a row: a pool may hold one that it takes for good."""
    for _ in range(3):
        assert scene.fleet.postgres.cut_connections() > 0
        time.sleep(scene.chance.uniform(0.05, 0.4))
    yield


@contextmanager
def store_refuses(scene: Scene) -> Iterator[None]:
    """Its file system is read-only: nothing can be stored, and nothing destroyed."""
    assert scene.disk is not None
    _remount(scene.disk.folder, "ro")
    try:
        yield
        time.sleep(scene.refuse_seconds)
    finally:
        _remount(scene.disk.folder, "rw")


def _remount(folder: Path, how: str) -> None:
    """Not while a file is open for writing; the next moment none is."""
    for _ in range(200):
        done = subprocess.run(["mount", "-o", f"remount,{how}", folder], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.02)
    raise RuntimeError(done.stderr)


@contextmanager
def disk_full(scene: Scene) -> Iterator[None]:
    assert scene.disk is not None
    with scene.disk.full():
        yield
        until = time.monotonic() + scene.refuse_seconds
        while time.monotonic() < until:  # what is destroyed meanwhile makes room
            scene.disk.fill()
            time.sleep(0.2)


@contextmanager
def deliveries_muddled(scene: Scene) -> Iterator[None]:
    """Every message many times, the old ones too, in any order; and some that no process has sent."""
    fleet, chance = scene.fleet, scene.chance
    for worker in fleet.workers:  # so that messages pile up, and can be copied
        fleet.send(worker, SIGSTOP)
    try:
        time.sleep(2.5)
        with fleet.redis.client() as client:
            queues = [name for name in client.scan_iter(_type="list") if not name.startswith(b"_kombu")]
            seen = {name: client.lrange(name, 0, -1) for name in queues}
            assert any(seen.values()), "no notification was sent: there is nothing to replay"
            everything = [message for messages in seen.values() for message in messages]
            for name in queues:
                copies = [chance.choice(everything) for _ in range(REPLAYED)]
                mixed = [*seen[name], *copies, *GARBAGE]
                chance.shuffle(mixed)
                client.pipeline().delete(name).rpush(name, *mixed).execute()
    finally:
        for worker in fleet.workers:
            fleet.send(worker, SIGCONT)
    yield


FAULTS: dict[str, Callable[[Scene], AbstractContextManager[None]]] = {
    "worker SIGKILL": worker_killed,
    "API SIGKILL": api_killed,
    "Redis SIGKILL and restart": redis_killed,
    "Redis FLUSHALL": redis_flushed,
    "Redis SIGSTOP": redis_paused,
    "PostgreSQL restart": postgres_restarted,
    "PostgreSQL connections cut": connections_cut,
    "store refuses writes": store_refuses,
    "disk full": disk_full,
    "duplicate and reordered deliveries": deliveries_muddled,
}
ON_A_DISK = {"store refuses writes", "disk full"}

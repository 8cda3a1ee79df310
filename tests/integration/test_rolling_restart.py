"""Every process of a running service is restarted, one after the other, and no client notices.

Two APIs behind HAProxy, two workers, beat, PostgreSQL, Redis; clients that predict, contribute, delete meanwhile.
"""

from __future__ import annotations

import io
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from PIL import Image

from service.clock import system_clock
from service.core.access import ensure_admin_key
from service.registry.engine import Registry, migrate
from tests import servers
from tests.integration.harness import TINY, Picture, Service, oubli, until, upload
from tests.integration.rolling import Proxy, TrainingExample

pytestmark = [pytest.mark.thorough, pytest.mark.postgres, pytest.mark.redis]

SEED = 5
HONEST = {200, 201, 202, 429}


@dataclass
class Shop:
    """Everything that runs, and a client's view of it through the proxy."""

    env: dict[str, str]
    apis: list[TrainingExample]
    workers: list[TrainingExample]
    beat: TrainingExample
    proxy: Proxy
    service: Service

    def crew(self) -> set[str]:
        """Names of the workers that are alive."""
        return {worker["name"] for worker in self.service.status()["workers"] if worker["alive"]}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of one registry on PostgreSQL and one Redis, migrated."""
    data = tmp_path_factory.mktemp("rolling") / "data"
    with ExitStack() as stack:
        database = stack.enter_context(servers.fresh_database(stack.enter_context(servers.postgres())))
        broker = stack.enter_context(servers.redis())
        data.mkdir()
        migrate(database)
        with closing(Registry(database)) as registry:
            ensure_admin_key(registry, system_clock, data / "admin-key")
        yield {
            **TINY,
            "OUBLI_DATABASE_URL": database,
            "OUBLI_BROKER_URL": broker,
            "OUBLI_DATA_DIR": str(data),
            "OUBLI_SERVING__DRAIN_SECONDS": "4",
            "OUBLI_WORKER__HEARTBEAT_SECONDS": "1",
        }


@pytest.fixture
def shop(env: dict[str, str], tmp_path: Path) -> Iterator[Shop]:
    folder = Path(env["OUBLI_DATA_DIR"]).parent
    with ExitStack() as stack:
        apis = [TrainingExample("api", tmp_path, env, name) for name in ("api-1", "api-2")]
        workers = [TrainingExample("worker", tmp_path, env, name) for name in ("worker-1", "worker-2")]
        beat = TrainingExample("beat", tmp_path, env)
        for member in (*apis, *workers, beat):
            stack.enter_context(member).start()
        proxy = stack.enter_context(Proxy(tmp_path, apis))
        service = stack.enter_context(Service(folder, port=proxy.port))
        proxy.sees("api-1", "api-2")
        running = Shop(env, apis, workers, beat, proxy, service)
        until(lambda: running.crew() == {"worker-1", "worker-2"}, what="two workers")
        yield running


@dataclass
class Load:
    """Clients that call until told to stop, each on a connection that it keeps; every answer is counted."""

    service: Service
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    erasures: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        calls: list[tuple[Callable[[httpx.Client, random.Random], None], float]] = [
            (self._predict, 0.05), (self._contribute, 0.1), (self._delete, 0.2),
        ]  # fmt: skip
        self._threads = [
            threading.Thread(target=self._repeat, args=(call, pause, SEED + i)) for i, (call, pause) in enumerate(calls)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, call: Callable[[httpx.Client, random.Random], None], pause: float, seed: int) -> None:
        draws = random.Random(seed)
        with self.service.client_with(self.service.key) as client:
            while not self._over.wait(pause):
                try:
                    call(client, draws)
                except Exception as fault:  # whatever a client would see
                    self.faults.append(f"{call.__name__}: {fault!r}")

    def _count(self, name: str, answer: httpx.Response) -> Any:
        self.answers[name, answer.status_code] += 1
        if answer.status_code not in HONEST:
            self.faults.append(f"{name}: {answer.status_code} {answer.text}")
        return answer.json()

    def _predict(self, client: httpx.Client, draws: random.Random) -> None:
        files = upload("image", [noise(draws) for _ in range(3)])
        predictions = self._count("predict", client.post("/predict", files=files)).get("predictions", [])
        if len(predictions) not in (0, 3):
            self.faults.append(f"{len(predictions)} predictions")

    def _contribute(self, client: httpx.Client, draws: random.Random) -> None:
        picture = noise(draws)
        words = {"label": picture.label, "owner": f"owner-{draws.randrange(20)}"}
        sample = self._count("contribute", client.post("/samples", files=upload("image", [picture]), data=words))
        if "id" in sample:
            self.survivors.append(sample["id"])

    def _delete(self, client: httpx.Client, draws: random.Random) -> None:
        if not self.survivors:
            return
        gone = self.survivors.pop(draws.randrange(len(self.survivors)))
        erasure = self._count("delete", client.delete(f"/samples/{gone}"))
        if "id" in erasure:
            self.erasures.add(erasure["id"])
        else:
            self.survivors.append(gone)


def noise(draws: random.Random) -> Picture:
    """An image unlike any other."""
    pixels = np.random.default_rng(draws.getrandbits(64)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Picture("noise.png", file.getvalue(), draws.choice(["a", "b", "c"]))


@pytest.mark.timeout(900)
def test_every_process_is_restarted_and_no_request_fails(shop: Shop, pictures: list[Picture]) -> None:
    shop.service.contribute(pictures[:20], "ada")  # something to predict from
    with Load(shop.service) as load:
        for api in shop.apis:
            (other,) = {each.name for each in shop.apis} - {api.name}
            assert api.stop() >= 4
            shop.proxy.sees(other)
            api.start().serving()
            shop.proxy.sees("api-1", "api-2")
        for worker in shop.workers:
            worker.stop()
            assert worker.name not in shop.crew()
            worker.start()
            until(lambda name=worker.name: name in shop.crew(), what=f"{worker.name}\n{worker.log}")  # type: ignore[misc]
        shop.beat.stop()
        shop.beat.start()
    print("seed", SEED, dict(load.answers))
    assert not load.faults, (load.faults[:5], len(load.faults), shop.proxy.log[-3000:])
    for name in ("predict", "contribute", "delete"):
        assert sum(count for (called, status), count in load.answers.items() if called == name and status != 429) >= 20
    shop.service.settle()
    completed = {erasure["id"] for erasure in shop.service.pages("/erasures") if erasure["state"] == "completed"}
    assert load.erasures <= completed
    assert {sample["id"] for sample in shop.service.pages("/samples")} >= set(load.survivors)
    assert shop.service.status()["samples"] == len(load.survivors) + 20
    everybody = (*shop.apis, *shop.workers, shop.beat)
    for member in everybody:
        member.tell()
    *served, timed = [member.ended() for member in everybody]
    assert served == [0] * 4
    assert timed in (0, -signal.SIGTERM)  # started a moment ago, it may not listen yet; and it has nothing to lose
    audit = oubli("audit", env=shop.env)
    assert audit.code == 0, audit


def test_a_worker_told_to_go_in_mid_training_gives_back_what_it_holds(env: dict[str, str], tmp_path: Path) -> None:
    # One batch is short, an epoch is long: it ends after the batch.
    slow = {**env, "OUBLI_TRAINING__EPOCHS": "1000", "OUBLI_TRAINING__BATCH_SIZE": "1"}
    with (
        TrainingExample("worker", tmp_path, slow, "slow") as worker,
        TrainingExample("api", tmp_path, slow, "api") as api,
    ):
        worker.start()
        with Service(Path(env["OUBLI_DATA_DIR"]).parent, port=api.start().serving().port) as service:
            service.contribute([noise(random.Random(i)) for i in range(8)], "bela")
            until(lambda: leases(env), what=f"a training under way\n{worker.log}")
            started = time.monotonic()
            worker.tell()
            assert worker.ended() == 0, worker.log
            took = time.monotonic() - started
            assert took < 10, worker.log
            assert leases(env) == 0
            assert service.status()["workers"] == []
            assert service.client.delete("/owners/bela").status_code == 202  # nobody is needed for that
        api.stop()


def leases(env: dict[str, str]) -> int:
    """Clusters that some worker holds, by the registry itself."""
    url = env["OUBLI_DATABASE_URL"].replace("postgresql+psycopg", "postgresql")
    with closing(psycopg.connect(url, connect_timeout=10)) as connection:
        found = connection.execute("SELECT count(*) FROM clusters WHERE lease_token IS NOT NULL").fetchone()
    assert found is not None
    return int(found[0])

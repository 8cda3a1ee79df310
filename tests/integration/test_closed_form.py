"""The closed-form tier over HTTP: exact at every moment, on every replica, whatever dies, sleeps or is withdrawn.

API processes of their own (`oubli api`), several on one folder. `OUBLI_COUNTERFACTUALS` sets how many random histories
of contributions and erasures are compared with ones in which only the survivors ever came.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from models.choice import constants, digest_of
from models.closed_form import Accumulators
from models.descriptor_kind import DescriptorKind
from models.spec import ClosedFormSpec
from service.clock import system_clock
from service.core.access import ensure_admin_key
from service.registry.engine import Registry, migrate
from tests.conftest import Images
from tests.integration.harness import READY_SECONDS, TINY, Picture, Service, digit_pictures, launch, until, upload
from tests.integration.test_counterfactual import REAL, picture

ROUNDS = int(os.environ.get("OUBLI_COUNTERFACTUALS", "1"))
OWNERS = ("ada", "bela", "cyd", "dora")
FRESH_SECONDS = 10.0  # a silent process counts as alive this long, at heartbeats as below
QUICK = {**TINY, "OUBLI_WORKER__HEARTBEAT_SECONDS": "0.3", "OUBLI_WORKER__RECONCILE_SECONDS": "0.5"}
LOST = "the closed-form tier is lost"

Given = tuple[Picture, str]  # and its owner


@dataclass
class Process(Service):
    """One `oubli api`, or `oubli worker`, on a data folder that others may share."""

    role: str = "api"
    data: Path = Path()

    def start(self, *, ready: bool = False) -> Process:
        """Never waits."""
        more = ["--port", str(self.port)] if self.role == "api" else []
        env = {**self.env, "OUBLI_DATA_DIR": str(self.data)}
        self._process = launch(self.role, *more, env=env, log=self.folder / "log")
        return self

    def is_ready(self) -> bool:
        """Without a worker /health/ready says no for good."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
        with suppress(httpx.TransportError):
            return self.client.get("/status").status_code == 200
        return False

    def tier(self) -> Any:
        """As `/status` shows it, but for the head; None while it starts from the survivors."""
        found = self.status()["closed_form"]
        return {name: value for name, value in found.items() if name != "head"} if found is not None else None

    def give(self, given: Sequence[Given]) -> list[str]:
        """One by itself, more in a batch; the ids."""
        if len(given) > 1:
            return [s["id"] for s in self.contribute([shown for shown, _ in given], [owner for _, owner in given])]
        ((shown, owner),) = given
        words = {"label": shown.label, "owner": owner}
        answer = self.client.post("/samples", files=upload("image", [shown]), data=words)
        assert answer.status_code == 201, answer.text
        return [answer.json()["id"]]

    def forget(self, what: str | Sequence[str]) -> None:
        """A path, or ids of samples."""
        post = self.client.post
        answer = self.client.delete(what) if isinstance(what, str) else post("/erasures", json={"samples": what})
        assert answer.status_code == 202, answer.text

    def predict(self, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        answer = self.client.post("/predict", params={"top_k": 1000}, files=upload("image", pictures))
        assert answer.status_code == 200, answer.text
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        assert len(predictions) == len(pictures)
        for one in predictions:
            assert {"label", "score", "scores", "cluster", "prompt", "tier", "degraded", "head"} <= set(one)
            assert {"label": one["label"], "score": one["score"]} == one["scores"][0]
        return predictions

    def file(self, sample: str) -> Path:
        return self.data / "objects" / "samples" / sample[-2:] / f"{sample}.safetensors"


@contextmanager
def processes(folder: Path, env: dict[str, str], count: int) -> Iterator[list[Process]]:
    """API processes on one new folder, ready."""
    data = folder / "data"
    migrate(url := f"sqlite:///{data / 'registry.db'}")
    with closing(Registry(url)) as registry:
        ensure_admin_key(registry, system_clock, data / "admin-key")
    with ExitStack() as stack:
        found = [Process(folder / f"api {i}", env, data=data) for i in range(count)]
        for one in found:
            stack.enter_context(one.start())
        until(lambda: all(one.is_ready() for one in found), seconds=READY_SECONDS, what="GET /status")
        yield found


def recomputed(replica: Process) -> dict[str, Any]:
    """From the files of the samples on record, by nothing of the service's books but its list of samples.

    They are too few to choose lambda and temperature from.
    """
    remaining = replica.pages("/samples")
    rows = np.stack([load(replica.file(sample["id"]).read_bytes())["descriptor"] for sample in remaining])
    state = Accumulators(rows.shape[1], kind=DescriptorKind().name)
    state.add(rows, [sample["label"] for sample in remaining])
    fixed = constants(ClosedFormSpec())
    return {
        "digest": digest_of(state.digest(), fixed),
        "samples": len(remaining),
        "ridge": fixed.ridge,
        "temperature": fixed.temperature,
        "chosen_from": 0,
        "settled": True,
    }


def chunks(given: Sequence[Given], chance: random.Random, most: int) -> Iterator[list[Given]]:
    left = list(given)
    while left:
        yield [left.pop(0) for _ in range(min(len(left), chance.randint(1, most)))]


def forget_some(service: Process, remaining: dict[str, Given], chance: random.Random) -> list[Given]:
    """One by one, a batch, or an owner; who was erased."""
    doomed = chance.sample(list(remaining), chance.randint(1, min(5, len(remaining))))
    way = chance.choice(("one by one", "batch", "owner"))
    if way == "owner":
        owner = remaining[doomed[0]][1]
        doomed = [sample for sample, (_, of) in remaining.items() if of == owner]
        service.forget(f"/owners/{owner}")
    else:
        for what in [doomed] if way == "batch" else [f"/samples/{sample}" for sample in doomed]:
            service.forget(what)
    return [remaining.pop(sample) for sample in doomed]


def forgetful(service: Process, given: Sequence[Given], chance: random.Random) -> dict[str, Given]:
    """Everything is given, some of it is taken back, and some of that comes again. The survivors, by their ids."""
    remaining: dict[str, Given] = {}
    gone: list[Given] = []
    for chunk in chunks(given, chance, 6):
        again = [gone.pop(chance.randrange(len(gone))) for _ in range(min(len(gone), chance.randint(0, 2)))]
        remaining.update(zip(service.give(chunk + again), chunk + again, strict=True))
        if chance.random() < 0.3:
            service.predict([chunk[0][0]])  # the replica that answers brings the tier up to date, at another moment
        if chance.random() < 0.6:
            gone += forget_some(service, remaining, chance)
    remaining.update(zip(service.give(given[:2]), given[:2], strict=True))
    forget_some(service, remaining, chance)
    return remaining or dict(zip(service.give(given[2:4]), given[2:4], strict=True))


@pytest.mark.real
@pytest.mark.timeout(300 + 60 * ROUNDS)
@pytest.mark.thorough
def test_whoever_was_erased_leaves_no_bit_in_the_closed_form(images: Images, tmp_path: Path) -> None:
    one, two = ({**REAL, "OUBLI_SERVING__THREADS": threads} for threads in "12")
    with processes(tmp_path / "forgets", one, 1) as (a,), processes(tmp_path / "never saw", two, 2) as (b1, b2):
        empty = a.tier()
        assert empty["samples"] == 0
        for number in range(ROUNDS):
            seed, started = f"closed form {number}", time.monotonic()
            chance = random.Random(seed)
            chosen = [picture(images, i) for i in chance.sample(range(len(images.pixels)), chance.randint(10, 23))]
            given = [(shown, chance.choice(OWNERS)) for shown in chosen + chosen[:2]]  # the same image twice, as may be
            remaining = forgetful(a, given, chance)
            survivors = chance.sample(list(remaining.values()), len(remaining))
            ids: list[str] = []
            for turn, chunk in enumerate(chunks(survivors, chance, 9)):
                ids += (b1, b2)[turn % 2].give(chunk)
            whole = a.tier()
            assert whole["samples"] == len(survivors), seed
            assert whole == b1.tier() == b2.tier(), seed
            # One survivor fewer is another state, and the same one again on both.
            sample = chance.choice(list(remaining))
            a.forget(f"/samples/{sample}")
            b2.forget(f"/samples/{ids[survivors.index(remaining.pop(sample))]}")
            fewer = a.tier()
            assert fewer["digest"] != whole["digest"], seed
            assert fewer == b1.tier() == b2.tier(), seed
            for service in (a, b1):
                for owner in sorted({owner for _, owner in remaining.values()}):
                    service.forget(f"/owners/{owner}")
            assert empty == a.tier() == b1.tier() == b2.tier(), seed
            print(f"{seed!r}: {len(survivors)} of {len(given)} survive, {time.monotonic() - started:.1f} s", flush=True)
        until(lambda: not a.objects() and not b1.objects(), what="every file destroyed")
        for replica in (a, b1, b2):
            assert LOST not in replica.log, replica.log  # it has come by subtraction, not by starting anew
            assert "Traceback" not in replica.log, replica.log


@pytest.mark.thorough
def test_the_closed_form_answers_first_and_whenever_no_prompt_does(pictures: list[Picture], tmp_path: Path) -> None:
    given = [(shown, OWNERS[i % 4]) for i, shown in enumerate(pictures[:30])]
    worker = Process(tmp_path / "worker", QUICK, role="worker", data=tmp_path / "data")
    with processes(tmp_path, QUICK, 1) as (service,), worker:
        started = time.monotonic()
        service.give(given[:1])
        (answer,) = service.predict([pictures[40]])
        print(f"the first prediction came {time.monotonic() - started:.3f} s after the first sample was sent")
        assert (answer["tier"], answer["degraded"], answer["prompt"]) == ("closed_form", True, None)
        assert answer["label"] == pictures[0].label
        service.give(given[1:])
        assert_alone(service, pictures)
        worker.start()
        prompts = assert_fused(service, pictures)
        worker.stop()
        service.forget([service.pages("/samples", cluster=cluster)[0]["id"] for cluster in prompts])
        assert_alone(service, pictures)
        worker.start()
        assert not set(assert_fused(service, pictures).values()) & set(prompts.values())


@pytest.mark.thorough
def test_lambda_and_temperature_are_chosen_as_if_the_erased_had_never_come(tmp_path: Path) -> None:
    """Two replicas forget, one of which was killed meanwhile; one service never saw the erased."""
    given = [(shown, OWNERS[i % 4]) for i, shown in enumerate(digit_pictures(280))]
    env = {**QUICK, "OUBLI_QUALITY__SETTLE_SECONDS": "0.2", "OUBLI_QUALITY__SHARE": "1"}
    with processes(tmp_path / "forgets", env, 2) as (a1, a2), processes(tmp_path / "never saw", env, 1) as (b,):
        ids = [sample for start in range(0, 280, 70) for sample in a1.give(given[start : start + 70])]
        until(lambda: all(one.tier()["settled"] for one in (a1, a2)), what="a choice on both replicas")
        assert a1.tier() == a2.tier()
        known = a1.tier()
        assert known["chosen_from"] == 280
        a1.forget(f"/samples/{ids[0]}")
        a1.forget(ids[1:50])
        for replica in (a2, a1):
            fewer = replica.tier()
            assert (fewer["samples"], fewer["digest"] != known["digest"]) == (230, True)
            assert fewer["settled"] == (
                fewer["chosen_from"] == 230
            )  # else the constants, with the erasure's own answer
        a2.process.kill()
        a2.process.wait()
        until(a2.start().is_ready, what="another API")
        chance = random.Random(5)
        for chunk in chunks(chance.sample(given[50:], 230), chance, 80):
            b.give(chunk)
        until(lambda: all(one.tier()["settled"] for one in (a1, a2, b)), what="a choice without the erased")
        assert a1.tier() == a2.tier() == b.tier()
        assert a1.tier()["chosen_from"] == 230
        for replica in (a1, a2, b):
            assert LOST not in replica.log, replica.log
            assert "Traceback" not in replica.log, replica.log


def assert_alone(service: Process, pictures: Sequence[Picture]) -> None:
    """Nothing but the closed form answers, and with the labels of the samples on record now."""
    labels = {sample["label"] for sample in service.pages("/samples")}
    assert service.tier() == recomputed(service)
    until(lambda: len(service.predict(pictures[:1])[0]["scores"]) == len(labels), what="a head of all who have come")
    for one in service.predict(pictures[:30]):
        assert (one["tier"], one["degraded"], one["prompt"]) == ("closed_form", True, None)
        assert {said["label"] for said in one["scores"]} == labels


def assert_fused(service: Process, pictures: Sequence[Picture]) -> dict[str, str]:
    """Everybody's cluster answers, with its prompt: the prompts by cluster."""
    prompts = {cluster["id"]: cluster["prompt"]["key"] for cluster in service.settle()}
    assert len(prompts) > 1
    for one in service.predict(pictures[:30]):
        assert (one["tier"], one["degraded"], one["prompt"]) == ("fused", False, prompts[one["cluster"]])
    return prompts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    with processes(tmp_path_factory.mktemp("pair"), QUICK, 2) as replicas:
        yield replicas


def last_heard_of(replica: Process) -> datetime:
    with closing(sqlite3.connect(f"file:{replica.data / 'registry.db'}?mode=ro", uri=True, timeout=30)) as registry:
        query = f"SELECT beat_at FROM replicas WHERE name LIKE '%-{replica.process.pid}'"
        ((beat,),) = registry.execute(query).fetchall()
    return datetime.fromisoformat(beat).replace(tzinfo=UTC)


def pause(replica: Process) -> None:
    """By SIGSTOP, at a moment when it does not hold SQLite's lock: with it, it would stop every process."""
    with closing(sqlite3.connect(replica.data / "registry.db", timeout=5, isolation_level=None)) as registry:
        while True:
            replica.process.send_signal(signal.SIGSTOP)
            with suppress(sqlite3.OperationalError):
                registry.execute("BEGIN IMMEDIATE")
                return
            replica.process.send_signal(signal.SIGCONT)


@pytest.mark.thorough
def test_a_killed_replica_holds_a_file_up_until_it_is_given_up(pair: list[Process], pictures: list[Picture]) -> None:
    first, second = pair
    ids = first.give([(shown, "ada") for shown in pictures[:12]])
    assert first.tier() == second.tier() == recomputed(first)
    before, after = first.file(ids[0]), first.file(ids[1])
    first.forget(f"/samples/{ids[0]}")
    second.process.kill()
    second.process.wait()
    first.forget(f"/samples/{ids[1]}")
    assert first.tier() == recomputed(first)
    until(lambda: not after.exists(), what="the file destroyed")
    held_up = (datetime.now(UTC) - last_heard_of(second)).total_seconds()
    print(f"the file was gone {held_up:.1f} s after the last heartbeat of the killed replica")
    assert held_up >= FRESH_SECONDS
    until(lambda: not before.exists(), what="the other file destroyed")
    assert LOST not in first.log
    until(second.start().is_ready, what="another API")
    assert first.tier() == second.tier() == recomputed(first)


@pytest.mark.thorough
def test_a_replica_that_slept_through_destructions_is_right_again(pair: list[Process], pictures: list[Picture]) -> None:
    first, second = pair
    ids = first.give([(shown, "bela") for shown in pictures[20:32]])
    assert first.tier() == second.tier()
    pause(second)
    slept = time.monotonic()
    missed = [*ids[:2], *first.give([(pictures[32], "cyd")])]  # the last one comes and goes meanwhile
    files = [first.file(sample) for sample in missed]
    first.forget(missed)
    first.give([(pictures[33], "cyd")])
    until(lambda: not any(path.exists() for path in files), what="the files destroyed")
    until(lambda: time.monotonic() - slept > FRESH_SECONDS + 3, what="a long sleep")
    second.process.send_signal(signal.SIGCONT)
    assert until(second.tier, what="its tier") == first.tier() == recomputed(first)  # silent until it is right
    assert LOST in second.log
    second.forget(f"/samples/{ids[2]}")
    assert first.tier() == second.tier() == recomputed(second)
    until(lambda: not first.file(ids[2]).exists(), what="the file destroyed once both know")

"""Fault drills: the production shape under steady load, one fault after the other, and nothing that was promised lost.

`OUBLI_DRILL_ROUNDS` (1) times each fault; from 5 on the long pauses last as long as the record asks for.
`OUBLI_DRILL_SEED` repeats the random moments of a run. `-s` shows the table of docs/explanation/reliability.md.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.disks import Disk, small_disk
from tests.integration.drills import Round, as_markdown, as_records, recovered
from tests.integration.faults import FAULTS, ON_A_DISK, Scene
from tests.integration.fleet import Fleet
from tests.integration.harness import until
from tests.integration.load import FEW, Load

ROUNDS = int(os.environ.get("OUBLI_DRILL_ROUNDS", "1"))
SEED = int(os.environ.get("OUBLI_DRILL_SEED") or secrets.randbelow(10**6))
FOR_THE_RECORD = ROUNDS >= 5
PAUSE_SECONDS = 30.0 if FOR_THE_RECORD else 5.0
REFUSE_SECONDS = 20.0 if FOR_THE_RECORD else 4.0

pytestmark = [pytest.mark.thorough, pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(300 + ROUNDS * 240)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk | None]:
    """Small, so that it can be full; None where none may be mounted."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(small_disk(tmp_path_factory.mktemp("disk") / "data"))
        except pytest.skip.Exception:
            yield None


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, disk: Disk | None) -> Iterator[Fleet]:
    print(f"OUBLI_DRILL_SEED={SEED} OUBLI_DRILL_ROUNDS={ROUNDS}")
    with Fleet(tmp_path_factory.mktemp("fleet"), data=disk.folder if disk is not None else None) as running:
        yield running


@pytest.fixture(scope="module")
def load(fleet: Fleet) -> Iterator[Load]:
    with Load(fleet, SEED) as running:
        until(lambda: len(running.journal.survivors) >= FEW and len(running.completed) > 5, what="a service at work")
        yield running


@pytest.fixture(scope="module")
def rounds() -> list[Round]:
    """What every round has shown, in order."""
    return []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_under_load(fault: str, fleet: Fleet, load: Load, disk: Disk | None, rounds: list[Round]) -> None:
    if fault in ON_A_DISK and disk is None:
        pytest.skip("This fault needs the right to mount a disk.")
    chance = random.Random(f"{SEED}/{fault}")
    for number in range(ROUNDS):
        time.sleep(chance.uniform(0.5, 3.0))
        before, began = load.requests(), time.monotonic()
        scene = Scene(fleet, disk, chance, PAUSE_SECONDS, REFUSE_SECONDS)
        with FAULTS[fault](scene):
            pass
        healed = time.monotonic()
        seconds = recovered(load, since=healed, seed=SEED, fault=fault)
        rounds.append(Round.of(fault, number, load, before=before, began=began, healed=healed, seconds=seconds))
        assert load.journal.withdrawn_answers() == [], f"seed {SEED}, {fault}, round {number}"
        assert load.journal.broken == [], f"seed {SEED}, {fault}, round {number}"
        assert load.errors == []


def test_nothing_promised_is_lost(fleet: Fleet, load: Load) -> None:
    load.stop()
    fleet.settle()
    journal = load.journal
    listed = fleet.pages("/samples")
    assert journal.contradictions(listed=listed, stored=fleet.stored()) == [], f"seed {SEED}"
    assert journal.lost_erasures(fleet.pages("/erasures")) == [], f"seed {SEED}"
    assert journal.withdrawn_answers() == [], f"seed {SEED}"
    assert load.errors == []
    assert [failed for failed in journal.failures if failed[1] == "500"] == []  # 503: come again
    ended = {status for member in fleet.members.values() for status in member.endings}
    assert ended <= {-signal.SIGKILL}, "a process ended that no drill had killed"
    # All this would hold for a service that has done nothing.
    withdrawn = {prompt for erasure in journal.erasures.values() for prompt in erasure.prompts}
    answered = {prompt for prediction in journal.predictions for prompt in prediction.prompts}
    labels = {label for erasure in journal.erasures.values() for label in erasure.labels}
    heard = {label for prediction in journal.predictions for label in prediction.labels}
    assert len(withdrawn & answered) > 10
    assert len(labels & heard) > 10
    assert len(journal.erased) > 20
    assert len(journal.survivors) > 20
    assert {prediction.replica for prediction in journal.predictions} == set(range(len(fleet.ports)))


def test_the_audit_finds_no_difference(fleet: Fleet, load: Load) -> None:
    load.stop()
    fleet.settle()
    done = fleet.audit("--embeddings", "--rebuild", "all")
    assert done.code == 0, f"seed {SEED}\n{done.out}\n{done.err}"


def test_what_it_took_is_recorded(fleet: Fleet, load: Load, rounds: list[Round], tmp_path: Path) -> None:
    erasures = {erasure["id"]: erasure for erasure in fleet.pages("/erasures")}
    records = as_records(rounds, load.journal, erasures)
    report = {"seed": SEED, "rounds": ROUNDS, "faults": records, "endings": {
        name: member.endings for name, member in fleet.members.items()
    }}  # fmt: skip
    path = Path(os.environ.get("OUBLI_DRILL_REPORT", tmp_path / "drills.json"))
    path.write_text(json.dumps(report, indent=2) + "\n")
    assert {record["fault"] for record in records} == {one.fault for one in rounds}
    print(f"\nOUBLI_DRILL_SEED={SEED} OUBLI_DRILL_ROUNDS={ROUNDS}, {path}\n\n{as_markdown(records)}\n")

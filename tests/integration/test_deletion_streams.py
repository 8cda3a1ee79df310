"""Deletions, however many, against a running service: each is completed without a training, and answers go on.

What the benchmark `deletion_streams` measures; here only that it holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.integration.harness import TINY, Service, digit_pictures, until, upload

pytestmark = pytest.mark.thorough

PAUSES = {"OUBLI_ERASURE__RETRAIN_PAUSE": "2", "OUBLI_ERASURE__COMPLETE_WITHIN": "600"}
SECONDS, PER_SECOND = 10, 5
PICTURES = digit_pictures(140)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose clusters wait to be retrained, as one does that is shipped."""
    with Service(tmp_path_factory.mktemp("patient"), env={**TINY, **PAUSES}) as service:
        service.start()
        service.contribute(PICTURES[:70], "ada")
        service.settle()
        yield service


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def served(service: Service, cluster: str) -> dict[str, Any] | None:
    found: dict[str, Any] = service.client.get(f"/clusters/{cluster}").json()
    return found if found["prompt"] is not None else None


def test_deleting_whenever_a_prompt_is_back_makes_it_stay_away_longer_each_time(patient: Service) -> None:
    cluster = max(patient.pages("/clusters"), key=lambda one: int(one["samples"]))["id"]
    members = [sample["id"] for sample in patient.pages("/samples", cluster=cluster)]
    pauses: list[float] = []
    for _ in range(5):  # the first is not waited for, nor the one after
        until(lambda: served(patient, cluster), what="the prompt")
        accepted = patient.client.delete(f"/samples/{members.pop()}")
        assert accepted.status_code == 202, accepted.text
        found = patient.client.get(f"/clusters/{cluster}").json()
        assert found["prompt"] is None
        if found["retrain_at"] is not None:
            pauses.append(moment(found["retrain_at"]) - moment(accepted.json()["accepted_at"]))
    assert len(pauses) >= 3
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses)), pauses


def test_a_flood_of_deletions_is_completed_untrained_and_predictions_are_answered(patient: Service) -> None:
    patient.contribute(PICTURES[70:], "bela")
    samples = [sample["id"] for sample in patient.pages("/samples", owner="bela")]
    stop = threading.Event()

    def ask() -> list[int]:
        statuses: list[int] = []
        with patient.client_with(patient.key) as client:
            while not stop.wait(0.1):
                statuses.append(client.post("/predict", files=upload("image", PICTURES[:1])).status_code)
        return statuses

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            began, erasures = time.monotonic(), []
            for place in range(SECONDS * PER_SECOND):
                time.sleep(max(0.0, began + place / PER_SECOND - time.monotonic()))
                answer = patient.client.delete(f"/samples/{samples[place]}")
                assert answer.status_code == 202, answer.text
                erasures.append(answer.json()["id"])
            found = until(lambda: completed(patient, erasures), what=f"their completion\n{patient.log[-3000:]}")
        finally:
            stop.set()
        statuses = asking.result()
    assert found is not None
    assert any(erasure["restored_at"] is None for erasure in found)  # it was not trained for that
    assert len(statuses) > SECONDS
    assert set(statuses) == {200}
    assert "Traceback" not in patient.log


def completed(service: Service, ids: list[str]) -> list[dict[str, Any]] | None:
    """These erasures, once each is completed."""
    found = [erasure for erasure in service.pages("/erasures") if erasure["id"] in ids]
    assert len(found) == len(ids)
    return found if all(erasure["state"] == "completed" for erasure in found) else None

"""Structured logs of running services: every line parses, none says whose or what, and a request can be followed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import TINY, Picture, Service, until, upload

pytestmark = pytest.mark.thorough

OWNER, LABEL, FILE = "zz-owner-zz", "zz-label-zz", "zz-file-zz"
JSON = {**TINY, "OUBLI_LOG_FORMAT": "json", "OUBLI_LOG_LEVEL": "DEBUG"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("logged"), env=JSON).start() as service:
        yield service


def events(service: Service) -> list[dict[str, Any]]:
    """Every line; fails on one that is no object or names what no line may name."""
    found = []
    for line in service.log.splitlines():
        event = json.loads(line)
        assert {"time", "level", "logger", "event"} <= set(event), line
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
        for word in ("zz-", "digit-"):
            assert word not in line, line
        found.append(event)
    return found


def renamed(pictures: list[Picture], label: str = LABEL) -> list[Picture]:
    return [Picture(f"{FILE}-{i}.png", picture.data, f"{label}-{i % 2}") for i, picture in enumerate(pictures)]


def test_a_deletion_is_followed_from_the_request_to_the_prompt_that_serves_without_it(
    logged: Service, pictures: list[Picture]
) -> None:
    """A worker that happens to look by itself just then trains it on nobody's behalf: so there is more than one try."""
    samples = logged.contribute(renamed(pictures[:12]), OWNER)
    logged.settle()
    followed = 0
    for place, sample in enumerate(samples[:5]):
        name = f"follow-me-{place}"
        answer = logged.client.delete(f"/samples/{sample['id']}", headers={"X-Request-Id": name})
        assert answer.status_code == 202
        erasure = logged.complete(answer.json()["id"])
        touched = {cluster["cluster"] for cluster in erasure["clusters"] if cluster["state"] == "restored"}
        told = events(logged)
        (accepted,) = [event for event in told if event.get("request_id") == name]
        assert accepted["erasure"] == erasure["id"]
        assert accepted["logger"].startswith("service.api")
        (completed,) = [e for e in told if e.get("erasure") == erasure["id"] and e is not accepted]
        assert "is completed" in completed["event"]
        serves = [e for e in told if e["logger"] == "service.core.training" and name in e.get("request_ids", ())]
        assert touched & {event.get("cluster") for event in told}
        followed += bool(touched & {event["cluster"] for event in serves if "serves prompt" in event["event"]})
        if followed:
            return
    raise AssertionError(f"none of them could be followed\n{logged.log[-5000:]}")


def test_nothing_personal_is_logged_whatever_is_asked_and_goes_wrong(logged: Service, pictures: list[Picture]) -> None:
    client = logged.client
    (good, *_) = renamed(pictures[:1])
    words = {"label": f"{LABEL}-x", "owner": f"{OWNER}-x"}
    bad = [Picture(f"{FILE}.txt", b"zz-bytes-zz", ""), Picture(f"{FILE}.png", good.data[:60], "")]
    statuses = [
        client.post("/samples", files=upload("image", [good]), data=words).status_code,
        *(client.post("/samples", files=upload("image", [picture]), data=words).status_code for picture in bad),
        client.post("/samples", files=upload("image", [good]), data={**words, "owner": "zz-\0-zz"}).status_code,
        client.post("/samples", files=upload("image", [good]), data={**words, "label": "zz-" * 100}).status_code,
        client.post("/samples/batch", files=upload("images", [good]), data={"metadata": "[{zz-broken"}).status_code,
        client.get("/samples", params={"owner": OWNER, "label": LABEL}).status_code,
        client.get("/samples", params={"cluster": "zz-no-id", "cursor": "zz-cursor"}).status_code,
        client.post("/predict", files=upload("image", [good])).status_code,
        client.post("/predict", files=upload("image", bad[:1])).status_code,
        client.post("/erasures", json={"owner": f"{OWNER}-x", "validate_only": True}).status_code,
        client.post("/erasures", json={"owner": f"{OWNER}-nobody"}).status_code,
        client.post("/erasures", content=b"zz-no-json", headers={"Content-Type": "application/json"}).status_code,
        client.delete(f"/owners/{OWNER}-nobody").status_code,
        client.delete(f"/owners/{OWNER}-x").status_code,
        client.get("/zz-nowhere").status_code,
        client.get("/status", headers={"Authorization": "Bearer zz-key-zz"}).status_code,
    ]
    assert statuses == [201, 415, 422, 422, 422, 422, 200, 422, 200, 415, 200, 404, 422, 404, 202, 404, 401]
    logged.settle()
    assert len(events(logged)) > 3


def test_a_request_that_breaks_is_told_by_its_id_and_where_it_broke(logged: Service, pictures: list[Picture]) -> None:
    """A trigger of the test's own makes the database refuse in words that quote what was sent."""
    with closing(sqlite3.connect(logged.data / "registry.db", timeout=30)) as registry, registry:
        registry.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON owners BEGIN SELECT RAISE(ABORT, 'owner zz-quoted-zz'); END"
        )
    try:
        words = {"label": f"{LABEL}-y", "owner": f"{OWNER}-y"}
        answer = logged.client.post(
            "/samples",
            files=upload("image", renamed(pictures[20:21])),
            data=words,
            headers={"X-Request-Id": "broken-7"},
        )
        assert answer.status_code == 500, answer.text
    finally:
        with closing(sqlite3.connect(logged.data / "registry.db", timeout=30)) as registry, registry:
            registry.execute("DROP TRIGGER refuse")
    failed = until(lambda: [e for e in events(logged) if e.get("request_id") == "broken-7" and "exception" in e])
    assert "IntegrityError: SQLITE_CONSTRAINT_TRIGGER" in failed[0]["exception"]
    assert "service/core/intake.py" in failed[0]["exception"]


def test_all_processes_end_in_lines_too(logged: Service) -> None:
    logged.stop()
    told = events(logged)
    assert any("Warm shutdown" in event["event"] for event in told)
    assert any(event["logger"].startswith("uvicorn") for event in told)
    key = logged.key
    assert key not in logged.log


def test_a_worker_that_dies_is_told_as_a_line(tmp_path: Path) -> None:
    with Service(tmp_path, env=JSON) as service:
        service.start()
        service.child("worker").kill()
        until(lambda: any("worker ended" in event["event"] for event in events(service)), what="its end to be told")

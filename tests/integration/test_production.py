"""The commands of docs/how-to/deployment.md, word for word: two APIs, two workers and beat on PostgreSQL and Redis.

Replaced are only the addresses: of throw-away servers and of free ports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests import documents, servers
from tests.integration.harness import REPOSITORY, TINY, environment, free_port
from tests.programs import program

pytestmark = [pytest.mark.thorough, pytest.mark.postgres, pytest.mark.redis]

SECRET = "5ec4e7"
DATABASE = "postgresql+psycopg://oubli:$SECRET@127.0.0.1:5432/oubli"
BROKER = "redis://:$SECRET@127.0.0.1:6379/0"


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """The page's addresses, and what stands for them here: an empty database, and a Redis that wants the password."""
    with ExitStack() as stack:
        database = stack.enter_context(servers.fresh_database(stack.enter_context(servers.postgres())))
        broker = stack.enter_context(servers.redis())
        with Redis.from_url(broker) as client:
            client.config_set("requirepass", SECRET)
            stack.callback(lambda: Redis.from_url(broker, password=SECRET).config_set("requirepass", ""))
        yield {
            DATABASE: database,
            BROKER: broker.replace("redis://", "redis://:$SECRET@"),
            "8001": str(free_port()),
            "8002": str(free_port()),
        }


def run(script: str, folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """In bash; whatever it starts ends with it."""
    process = subprocess.Popen(
        ["bash", "-c", f"set -eu\nSECRET={SECRET}\n{script}"],
        env=environment({**TINY, "PYTHONPATH": str(REPOSITORY)}),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += "\nit has not ended in time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def every_object(text: str) -> list[dict[str, Any]]:
    """The JSON objects in it. `curl` ends no line, and Celery says when it shuts down."""
    found, decoder, start = [], json.JSONDecoder(), text.find("{")
    while start >= 0:
        one, end = decoder.raw_decode(text, start)
        found.append(one)
        start = text.find("{", end)
    return found


@pytest.mark.timeout(900)
def test_the_production_section_works_word_for_word(addresses: dict[str, str], tmp_path: Path) -> None:
    program("curl")
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    script = documents.block(documents.DEPLOYMENT, "production")
    for old, new in addresses.items():
        assert old in script, old
        script = script.replace(old, new)

    done = run(script, tmp_path, 800)
    logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    answers = every_object(done.stdout)
    ready = [answer for answer in answers if "serving" in answer]
    assert len(ready) == 3
    assert all(answer["status"] == "ok" for answer in ready)
    sample, predicted, erasure, status = [answer for answer in answers if "serving" not in answer]
    assert (sample["owner"], sample["state"]) == ("ada", "active")
    assert predicted["predictions"][0]["label"] == "cat"
    assert erasure["subject"] == {"owner": "ada"}
    assert status["samples"] == 0
    # Ready is who has heard of one worker; the other may load still.
    assert {worker["name"] for worker in status["workers"]} <= {"worker-1", "worker-2"}
    assert status["workers"]
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert "Traceback" not in logs, logs


def test_the_section_and_the_files_that_it_names_agree() -> None:
    containers = documents.text_of(documents.DEPLOYMENT).split("## Containers")[1].split("## Upgrade")[0]
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    for command in (
        "docker compose --profile cpu up --build --detach",
        "docker compose run --rm --no-deps api keys create --scopes admin",
        r"printf 'POSTGRES_PASSWORD=%s\nREDIS_PASSWORD=%s\n' ",
    ):
        assert command in containers
        assert command in compose

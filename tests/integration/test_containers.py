"""docker/ and docker-compose.yml, without Docker: as Compose itself reads them, and as far as they can be followed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sysconfig
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.clock import system_clock
from service.core.queues import QUEUES
from service.registry import workers
from service.registry.engine import Registry, migrate
from service.settings import describe, load_settings
from tests.integration.harness import PROBLEM, REPOSITORY, oubli, until
from tests.integration.rolling import Proxy
from tests.programs import program

pytestmark = pytest.mark.thorough

SECRETS = {"POSTGRES_PASSWORD": "aa", "REDIS_PASSWORD": "bb"}
OURS = {"migrate", "api", "worker-gpu", "worker-cpu", "beat"}
COMPOSE = (REPOSITORY / "docker-compose.yml").read_text()
DOCKERFILE = (REPOSITORY / "docker" / "Dockerfile").read_text()
LOCK = (REPOSITORY / "docker" / "requirements.lock").read_text()
EXACT = re.compile(r"\d+\.\d+(\.\d+)?(-[a-z]+)*")


def tool(name: str) -> Path:
    """A program of the `dev` extra."""
    return Path(sysconfig.get_path("scripts")) / name


def compose(folder: Path, *profiles: str, secrets: dict[str, str] = SECRETS) -> subprocess.CompletedProcess[str]:
    """What Compose makes of our file with these secrets in `.env`: it checks schema, references and variables."""
    (folder / "docker-compose.yml").write_text(COMPOSE)
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    return subprocess.run(
        [tool("docker-compose"), "--project-directory", folder, *chosen, "config", "--format", "json"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every service, as Compose sees it."""
    done = compose(tmp_path_factory.mktemp("compose"), "cpu", "gpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def seconds(duration: str) -> int:
    """Of Compose's `1m30s`."""
    parts = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts is not None, duration
    return 60 * int(parts[1] or 0) + int(parts[2] or 0)


# ------------------------------------------------------------------------------------------------------ docker-compose


@pytest.mark.parametrize(("profile", "expected"), [("cpu", {"worker-cpu"}), ("gpu", {"worker-gpu"}), ("", set())])
def test_a_profile_runs_one_kind_of_worker(tmp_path: Path, profile: str, expected: set[str]) -> None:
    done = compose(tmp_path, *filter(None, [profile]))
    assert done.returncode == 0, done.stderr
    found = set(json.loads(done.stdout)["services"])
    assert found == {"postgres", "redis", "proxy", "migrate", "api", "beat", *expected}


@pytest.mark.parametrize("missing", SECRETS)
def test_it_does_not_start_without_secrets(tmp_path: Path, missing: str) -> None:
    for secrets in ({**SECRETS, missing: ""}, {name: SECRETS[name] for name in SECRETS if name != missing}):
        done = compose(tmp_path, "cpu", secrets=secrets)
        assert done.returncode != 0
        assert missing in done.stderr
    assert re.search(rf"^{missing}=$", (REPOSITORY / ".env.example").read_text(), re.MULTILINE)


def test_secrets_stay_out_of_git() -> None:
    assert subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=REPOSITORY, check=False).returncode == 0
    assert set(re.findall(r"\$\{(\w+)[^}]*\}", COMPOSE)) == set(SECRETS)
    assert re.findall(r"\$\{\w+:\?[^}]*\}", COMPOSE) == re.findall(r"\$\{[^}]*\}", COMPOSE)


def test_everything_said_to_oubli_is_a_setting_that_it_accepts(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {variable for variable, _, _ in describe()}
    example = re.findall(r"^#?(OUBLI_\w+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE)
    assert set(example) <= known
    for name in OURS:
        given = {key: value for key, value in services[name]["environment"].items() if key.startswith("OUBLI_")}
        assert {"OUBLI_DATABASE_URL", "OUBLI_BROKER_URL", "OUBLI_DATA_DIR"} <= set(given) <= known
        with monkeypatch.context() as patch:
            for key, value in given.items():
                patch.setenv(key, value)
            settings = load_settings()
        assert settings.device == ("cuda" if name == "worker-gpu" else "cpu")
        assert settings.database.endswith("@postgres:5432/oubli")


def test_images_are_pinned_and_only_the_proxy_can_be_reached(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        image, _, tag = service["image"].partition(":")
        assert EXACT.fullmatch(tag), service["image"]
        assert ("build" in service) == image.startswith("oubli-") == (name in OURS)
        published = [(port["host_ip"], port["published"]) for port in service.get("ports", [])]
        assert published == ([("127.0.0.1", "8000")] if name == "proxy" else [])
    for base in re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE):
        assert EXACT.fullmatch(base.partition(":")[2]), base


def test_processes_may_do_little_and_come_back(services: dict[str, dict[str, Any]]) -> None:
    for name in (*OURS, "proxy"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert name == "proxy" or service["init"]
    for name in ("postgres", "redis"):
        assert services[name]["healthcheck"]["test"]
        assert services[name]["restart"] == "unless-stopped"
    command = services["redis"]["command"][-1]
    assert "noeviction" in command
    assert "--appendonly yes" in command


def test_a_stop_leaves_time_to_drain_and_to_finish(services: dict[str, dict[str, Any]]) -> None:
    api = services["api"]
    drain, finish = (int(api["environment"][f"OUBLI_SERVING__{name}_SECONDS"]) for name in ("DRAIN", "FINISH"))
    assert seconds(api["stop_grace_period"]) >= drain + finish + 10  # threads have five seconds, twice
    # The proxy has noticed long before: one check that comes late, and one that comes fast.
    assert drain > 2 * 2


# ---------------------------------------------------------------------------------------------------------- the images


def test_haproxy_accepts_its_configuration() -> None:
    command = [program("haproxy"), "-c", "-f", REPOSITORY / "docker" / "haproxy.cfg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_the_proxy_says_in_the_apis_words_that_nobody_is_there_and_logs_no_owner(tmp_path: Path) -> None:
    with Proxy(tmp_path, []) as proxy, httpx.Client(base_url=proxy.url, timeout=10) as client:
        until(proxy._answers, what="HAProxy")
        for path in ("/owners/ada", '/owners/"},{'):
            answer = client.delete(path)
            assert answer.headers["retry-after"] == "2"
            problem = answer.json()
            assert (answer.status_code, problem["status"]) == (503, 503)
            assert answer.headers["content-type"] == PROBLEM
            assert problem["instance"] == answer.request.url.raw_path.decode()
            assert problem["title"]
            assert problem["detail"]
            assert answer.headers["x-request-id"]
        until(lambda: "DELETE 503" in proxy.log, seconds=10, what="a line for the request")
        assert "ada" not in proxy.log


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [tool("hadolint"), "--failure-threshold", "style", REPOSITORY / "docker" / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_run_as_somebody_and_say_how_they_are() -> None:
    stages = re.split(r"^FROM (?=\S)", DOCKERFILE, flags=re.MULTILINE)[1:]
    named = {re.match(r"\S+ AS (\w+)", stage).group(1): stage for stage in stages}  # type: ignore[union-attr]
    assert "USER 10001" in named["oubli"]
    for image in ("api", "worker"):
        assert named[image].startswith("oubli AS")
        assert "USER" not in named[image]
        assert "HEALTHCHECK" in named[image]


def test_what_is_copied_exists_and_is_what_is_packaged() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert [line[1:] for line in ignore if line.startswith("!")] == copied
    assert all((REPOSITORY / source).exists() for source in copied)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packaged = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packaged <= set(copied)


def test_the_lock_holds_everything_that_is_asked_for_and_says_whence_nothing_comes() -> None:
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+!]+", line) for line in lines), lines
    pinned = dict(line.split("==") for line in lines)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        asked = Requirement(text)
        version = pinned.get(canonicalize_name(asked.name))
        assert version is not None, f"{asked.name} is not in docker/requirements.lock; its head says how it is made"
        assert asked.specifier.contains(version), (text, version)


# ------------------------------------------------------------------------------------------------------- health checks


def test_a_workers_heartbeat_can_be_asked_for(tmp_path: Path) -> None:
    env = {
        "OUBLI_DATA_DIR": str(tmp_path),
        "OUBLI_WORKER__HEARTBEAT_SECONDS": "100",
        "OUBLI_WORKER__LEASE_SECONDS": "300",
    }
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    migrate(url)
    registry, own = Registry(url), f"{socket.gethostname()}-7"

    def register(name: str, age: timedelta) -> None:
        with registry.write() as session:
            workers.register(session, name=name, device="cpu", queues=QUEUES, now=system_clock() - age)

    try:
        register("elsewhere-7", timedelta())
        assert oubli("heartbeat", env=env).code == 1
        assert oubli("heartbeat", "--name", "elsewhere-7", env=env).code == 0
        register(own, timedelta(hours=1))
        silent = oubli("heartbeat", env=env)
        assert silent.code == 1
        assert "Nothing was heard" in silent.err
        assert "Traceback" not in silent.err
        register(own, timedelta())
        assert oubli("heartbeat", env=env).out.split() == [own]
        assert oubli("heartbeat", "--name", "nobody", env=env).code == 1
    finally:
        registry.close()

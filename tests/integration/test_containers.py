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
from redis import Redis
from redis.exceptions import ResponseError

from service.clock import system_clock
from service.messaging.notifier import Notifier
from service.messaging.queues import QUEUES
from service.registry import workers
from service.registry.engine import Registry, migrate
from service.settings import Settings, describe, load_settings
from tests.integration.harness import PROBLEM, REPOSITORY, free_port, oubli, until
from tests.integration.rolling import Proxy
from tests.programs import program
from tests.servers import _redis_binary

pytestmark = pytest.mark.thorough

SECRETS = {"POSTGRES_PASSWORD": "aa", "REDIS_PASSWORD": "bb"}
OURS = {"migrate", "api", "worker-gpu", "worker-cpu", "beat"}
COMPOSE = (REPOSITORY / "docker-compose.yml").read_text()
DOCKERFILE = (REPOSITORY / "docker" / "Dockerfile").read_text()
LOCK = (REPOSITORY / "docker" / "requirements.lock").read_text()
EXACT = re.compile(r"\d+\.\d+(\.\d+)?(-[a-z]+)*(@sha256:[0-9a-f]{64})?")  # decision 21


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
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of it, as Compose sees it."""
    done = compose(tmp_path_factory.mktemp("compose"), "cpu", "gpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def services(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = composed["services"]
    return found


@pytest.fixture(scope="module")
def networks(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = composed["networks"]
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
    assert EXACT.fullmatch(f"17.11-bookworm@sha256:{'0f' * 32}")  # as an operator pins it
    assert not EXACT.fullmatch("latest")


def test_processes_may_do_little_and_come_back(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {*OURS, "proxy", "postgres", "redis"}
    for name, service in services.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert not service.get("privileged")
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert name not in OURS or service["init"]
    for name in ("postgres", "redis"):
        assert services[name]["healthcheck"]["test"]
        assert services[name]["user"] == "999:999"


def test_no_container_can_take_all_memory_processes_or_disk(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        memory = int(service["mem_limit"])
        assert 0 < memory <= 8 << 30, name
        assert int(service["memswap_limit"]) == memory, name  # no swap: what is in memory is on no disk
        assert 0 < service["pids_limit"] <= 512, name
        places = {place: options.split(",") for place, _, options in (each.partition(":") for each in service["tmpfs"])}
        assert "/tmp" in places, name
        for place, options in places.items():
            sizes = [option for option in options if re.fullmatch(r"size=\d+[mg]", option)]
            assert len(sizes) == 1, f"{name} {place}"
        assert {"noexec", "nosuid", "nodev", "mode=1777"} <= set(places["/tmp"]), name
    uploads = next(
        option for option in services["api"]["tmpfs"][0].split(":")[1].split(",") if option.startswith("size")
    )
    assert uploads == "size=1g"
    assert 3 * load_settings().intake.max_request_bytes <= 1 << 30


def test_each_container_speaks_only_with_those_that_it_must(services: dict[str, dict[str, Any]], networks: Any) -> None:
    members = {name: {each for each, service in services.items() if name in service["networks"]} for name in networks}
    assert members == {
        "public": {"proxy"},
        "replicas": {"proxy", "api"},
        "database": {"postgres", *OURS},
        "broker": {"redis", *OURS - {"migrate"}},
        "outside": {"api", "worker-cpu", "worker-gpu"},
    }
    assert {name for name, network in networks.items() if network.get("internal")} == {"replicas", "database", "broker"}


def test_the_database_tells_its_log_no_rows_and_takes_no_weak_password(services: dict[str, dict[str, Any]]) -> None:
    postgres = services["postgres"]
    assert {"log_error_verbosity=terse", "password_encryption=scram-sha-256"} <= set(postgres["command"])
    assert "--auth=scram-sha-256" in postgres["environment"]["POSTGRES_INITDB_ARGS"]


def test_the_broker_s_command_line_holds_no_password_and_its_script_runs(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Followed with a program of that name that shows what it was given."""
    *shell, script = services["redis"]["command"]
    assert shell == ["sh", "-c"]
    script = script.replace("$$", "$")
    for word in ("noeviction", "--appendonly yes"):
        assert word in script
    shown = tmp_path / "redis-server"
    shown.write_text('#!/bin/sh\necho "$@"; cat "$1"; ls -l "$1"\n')
    shown.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REDIS_PASSWORD": "bb"}
    secret = tmp_path / "secret.conf"
    done = subprocess.run(
        [*shell, script.replace("/tmp/secret.conf", str(secret))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    given, *lines = done.stdout.splitlines()
    assert "bb" not in given
    assert lines[0] == "requirepass bb"
    assert 'rename-command CONFIG ""' in lines
    assert lines[-1].startswith("-rw-------")


def test_the_broker_s_settings_are_accepted_and_a_notification_arrives_without_what_was_taken_away(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    script = services["redis"]["command"][-1].replace("$$", "$")
    taken = re.search(r"for command in ([A-Z ]+);", script)
    assert taken is not None
    port = free_port()
    conf = tmp_path / "redis.conf"
    renamed = "".join(f'rename-command {name} ""\n' for name in taken[1].split())
    conf.write_text(f"requirepass bb\n{renamed}")
    options = ["--appendonly", "yes", "--maxmemory", "128mb", "--maxmemory-policy", "noeviction"]
    command = [_redis_binary(), conf, *options, "--bind", "127.0.0.1", "--port", str(port), "--dir", tmp_path]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        notifier = Notifier(Settings(data_dir=tmp_path, broker_url=f"redis://:bb@127.0.0.1:{port}/0"))
        until(lambda: notifier.notify_now(urgent=True), seconds=30, what="a notification that is accepted")
        with Redis(port=port, password="bb") as client:
            assert client.llen("oubli.deletions") >= 1
            with pytest.raises(ResponseError, match="unknown command"):
                client.config_get("*")
    finally:
        server.kill()
        server.wait()


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
    lines = [line for line in LOCK.replace("\\\n", "").splitlines() if not line.startswith("#")]
    form = r"([a-z0-9.-]+)==([\w.+!]+)(?: +--hash=sha256:[0-9a-f]{64})+ *"
    found = [re.fullmatch(form, line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    pinned = {match[1]: match[2] for match in found if match is not None}
    assert "--require-hashes" in DOCKERFILE
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        asked = Requirement(text)
        version = pinned.get(canonicalize_name(asked.name))
        assert version is not None, f"{asked.name} is not in docker/requirements.lock; its head says how it is made"
        assert asked.specifier.contains(version), (text, version)


def test_a_bill_of_materials_names_everything_that_the_images_install(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    recipe = re.search(r"^sbom:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    words = recipe[1].replace("\\\n", " ").replace("--output-file sbom.json", f"--output-file {out}").split()
    assert words[0] == "$(BIN)/cyclonedx-py"
    subprocess.run([tool("cyclonedx-py"), *words[1:]], cwd=REPOSITORY, check=True, capture_output=True)
    bill = json.loads(out.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert (
        bill["metadata"]["component"]["name"]
        == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["name"]
    )
    listed = {(canonicalize_name(part["name"]), part["version"]) for part in bill["components"]}
    assert listed == set(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", LOCK, re.MULTILINE))
    for part in bill["components"]:
        assert part["externalReferences"][0]["hashes"], part["name"]


def test_what_is_pinned_and_by_what_is_said() -> None:
    security = (REPOSITORY / "SECURITY.md").read_text()
    assert "docker/requirements.lock" in security
    for said in ("Supported versions", "Reporting", "Threat model", "make sbom", "by tag"):
        assert said in security


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

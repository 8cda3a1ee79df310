"""A backup is made and restored with the databases' own tools: what was erased in between does not come back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests import documents
from tests.integration.harness import REPOSITORY, TINY, Done, Picture, Service, environment, oubli
from tests.programs import program
from tests.servers import fresh_database, postgres, postgres_program

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]  # seconds; services are started and stopped several times


def block(name: str) -> str:
    """The commands of that mark, for the test's data folder."""
    return documents.block(documents.BACKUP, name).replace("oubli-data", "data")


def shell(script: str, service: Service) -> Done:
    """Run them where that folder is."""
    prelude = f'set -eu\noubli() {{ "{sys.executable}" -m service.cli "$@" --data data; }}\n'
    done = subprocess.run(
        ["bash", "-c", prelude + script],
        cwd=service.folder,
        env={**environment(service.env), "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(service: Service, *arguments: str | Path) -> Done:
    return oubli(*arguments, "--data", service.data, env=service.env)


def ids(service: Service) -> set[str]:
    return {sample["id"] for sample in service.pages("/samples")}


class Story:
    """A service, a backup of it, and two erasures since; it is not running any more."""

    def __init__(self, folder: Path, pictures: list[Picture], back_up: Callable[[Service], None], **env: str) -> None:
        self.service = Service(folder, env={**TINY, "OUBLI_LEDGER_URL": str(folder / "ledger"), **env})
        with self.service.start() as service:
            first = [sample["id"] for sample in service.contribute(pictures[:20], "ada")]
            bela = [sample["id"] for sample in service.contribute(pictures[20:24], "bela")]
            service.settle()
            back_up(service)
            answers = [
                service.client.post("/erasures", json={"samples": first[:3]}),
                service.client.delete("/owners/bela"),
            ]
            self.erasures = [answer.json()["id"] for answer in answers]
            self.erased = {*first[:3], *bela}
            service.settle()
            self.survivors = ids(service)
            self.digests = service.digests()
            assert command(service, "audit").code == 0
        assert self.survivors == set(first) - self.erased

    def ends_well(self) -> None:
        """Served again, the erased stay erased, and the rest is what it was."""
        with self.service.start() as service:
            service.settle()
            assert ids(service) == self.survivors
            assert service.digests() == self.digests
            for erasure_id in self.erasures:
                assert service.complete(erasure_id)["id"] == erasure_id
            assert {path.stem for path in service.objects("samples")} == self.survivors
            checked = command(service, "restore-check")
            assert checked.code == 0, checked.out + checked.err
        audited = command(self.service, "audit", "--rebuild", "all")
        assert audited.code == 0, audited.out


def back_up_sqlite(service: Service) -> None:
    program("sqlite3")
    done = shell(block("backup"), service)
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, pictures: list[Picture]) -> Story:
    return Story(tmp_path_factory.mktemp("sqlite"), pictures, back_up_sqlite)


def put_back(service: Service) -> None:
    """The first three lines of the commands to restore."""
    done = shell("\n".join(block("restore").splitlines()[:3]), service)
    assert done.code == 0, done.err


def test_without_the_check_everybody_is_back(stopped: Story) -> None:
    put_back(stopped.service)
    with stopped.service.start() as service:
        assert ids(service) == stopped.survivors | stopped.erased


def test_the_check_names_them_and_erases_them_again(stopped: Story) -> None:
    service = stopped.service
    put_back(service)
    for _ in range(2):  # it changes nothing
        found = command(service, "restore-check")
        assert found.code == 1, found.err
        assert all(f"sample {sample_id} has come back" in found.out for sample_id in stopped.erased)
        assert "2 tombstones, 7 samples have come back." in found.out
        assert "ada" not in found.out
        assert "bela" not in found.out
    applied = command(service, "restore-check", "--apply")
    assert applied.code == 0, applied.out + applied.err
    assert "Erased again." in applied.out
    for _ in range(2):
        clean = command(service, "restore-check")
        assert (clean.code, clean.out) == (0, "2 tombstones, 0 samples have come back.\n"), clean.err
    stopped.ends_well()


def test_readmes_commands_do_it_all(stopped: Story) -> None:
    done = shell(block("restore"), stopped.service)
    assert done.code == 0, done.out + done.err
    assert done.out.endswith("2 tombstones, 0 samples have come back.\n")
    stopped.ends_well()


def test_what_cannot_be_checked_is_never_called_clean(stopped: Story, tmp_path: Path) -> None:
    service = stopped.service
    mistyped = command(service, "restore-check", tmp_path / "no-ledger")
    assert (mistyped.code, mistyped.out) == (2, "")
    assert "There is no ledger in" in mistyped.err
    elsewhere = {**service.env, "OUBLI_LEDGER_URL": str(tmp_path / "empty")}
    empty = oubli("restore-check", "--data", service.data, env=elsewhere)
    assert empty.code == 2
    assert "The erasure ledger is empty." in empty.err
    nowhere = oubli("restore-check", "--data", tmp_path / "nowhere", env=service.env)
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "The registry's database does not answer" in nowhere.err
    shutil.copytree(service.folder / "ledger", tmp_path / "damaged")
    path = next((tmp_path / "damaged").rglob("*.json"))
    path.write_bytes(path.read_bytes()[:50])
    damaged = {**service.env, "OUBLI_LEDGER_URL": str(tmp_path / "damaged")}
    found = oubli("restore-check", "--data", service.data, env=damaged)
    assert found.code == 1
    assert f"ledger object ledger/{path.name} is not a tombstone" in found.out


def test_nothing_is_erased_again_under_a_running_service(stopped: Story) -> None:
    put_back(stopped.service)
    with stopped.service.start() as service:
        refused = command(service, "restore-check", "--apply")
        assert refused.code == 1
        assert "The service runs on this registry" in refused.err
        assert ids(service) == stopped.survivors | stopped.erased


# ------------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as server, fresh_database(server) as url:
        yield url


@pytest.mark.postgres
def test_the_same_with_pg_dump_and_pg_restore(tmp_path: Path, pictures: list[Picture], database: str) -> None:
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    dump = tmp_path / "registry.dump"

    def run(*arguments: str | Path) -> None:
        done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def back_up(service: Service) -> None:
        run(postgres_program("pg_dump"), "--format=custom", f"--file={dump}", plain)
        run("cp", "-a", service.data / "objects", tmp_path / "objects")

    story = Story(tmp_path / "service", pictures, back_up, OUBLI_DATABASE_URL=database)
    run(postgres_program("pg_restore"), "--clean", "--if-exists", f"--dbname={plain}", dump)
    shutil.rmtree(story.service.data / "objects")
    run("cp", "-a", tmp_path / "objects", story.service.data / "objects")
    found = command(story.service, "restore-check")
    assert found.code == 1, found.err
    assert "2 tombstones, 7 samples have come back." in found.out
    assert all(sample_id in found.out for sample_id in story.erased)
    applied = command(story.service, "restore-check", "--apply")
    assert applied.code == 0, applied.out + applied.err
    story.ends_well()

"""`oubli` as people type it, against a running service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.harness import (
    REPOSITORY,
    Done,
    Picture,
    Service,
    digit_pictures,
    environment,
    free_port,
    oubli,
    until,
)

Command = Callable[..., Done]


@pytest.fixture
def command(service: Service) -> Command:
    """Run an `oubli` client command against the service, with the key in its data folder."""

    def run(*arguments: str | Path) -> Done:
        return oubli(*arguments, "--data", service.data, "--url", service.url, env=service.env)

    return run


def class_folders(root: Path, pictures: Sequence[Picture]) -> Path:
    """FOLDER/<label>/<image>, as `oubli ingest` wants it."""
    for picture in pictures:
        folder = root / picture.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / picture.name).write_bytes(picture.data)
    return root


def test_ingest_names_what_it_could_not_contribute(
    command: Command, service: Service, pictures: list[Picture], owner: str, tmp_path: Path
) -> None:
    folder = class_folders(tmp_path / "album", pictures[:9])
    (folder / pictures[0].label / "broken.png").write_bytes(b"no image")
    (folder / pictures[0].label / "notes.txt").write_text("not to be sent")
    (folder / "stray.png").write_bytes(pictures[0].data)  # of no class
    done = command("ingest", folder, "--owner", owner)
    assert done.code == 1
    assert "9 contributed, 0 held already, 1 refused." in done.out
    assert "broken.png" in done.out
    assert "10/10" in done.out
    held = service.pages("/samples", owner=owner)
    assert sorted(sample["label"] for sample in held) == sorted(picture.label for picture in pictures[:9])
    (folder / pictures[0].label / "broken.png").unlink()
    again = command("ingest", folder, "--owner", owner)
    assert again.code == 0, again.out + again.err
    assert "0 contributed, 9 held already, 0 refused." in again.out
    assert len(service.pages("/samples", owner=owner)) == 9


@pytest.mark.thorough
def test_an_interrupted_ingest_goes_on_where_it_ended(
    command: Command, service: Service, owner: str, tmp_path: Path
) -> None:
    pictures = list({picture.data: picture for picture in digit_pictures(300)}.values())
    folder = class_folders(tmp_path / "digits", pictures)
    arguments = ["ingest", str(folder), "--owner", owner, "--data", str(service.data), "--url", service.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=REPOSITORY,
        env=environment(service.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: service.pages("/samples", owner=owner) or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    done = command("ingest", folder, "--owner", owner)
    assert done.code == 0, done.out + done.err
    contributed, skipped = map(int, re.findall(r"(\d+) contributed, (\d+) held already, 0 refused", done.out)[0])
    assert contributed + skipped == len(pictures)
    assert skipped >= 1
    held = service.pages("/samples", owner=owner)
    assert len(held) == len(pictures)
    assert len({sample["digest"] for sample in held}) == len(pictures)


def test_predict_and_erase(
    command: Command, service: Service, pictures: list[Picture], owner: str, tmp_path: Path
) -> None:
    samples = service.contribute(pictures[:12], owner)
    service.settle()
    path = tmp_path / pictures[0].name
    path.write_bytes(pictures[0].data)
    predicted = command("predict", path)
    assert predicted.code == 0, predicted.err
    assert pictures[0].name in predicted.out
    assert any(label["label"] in predicted.out for label in service.client.get("/labels").json())

    quoted = command("erase", "--owner", owner, "--quote")
    assert quoted.code == 0, quoted.err
    assert json.loads(quoted.out)["samples"] == 12
    assert len(service.pages("/samples", owner=owner)) == 12

    some = command("erase", samples[0]["id"], samples[1]["id"])
    assert some.code == 0, some.err
    assert "2 samples" in some.out
    assert "Completed" in some.out
    rest = command("erase", "--owner", owner)
    assert rest.code == 0, rest.err
    assert "10 samples" in rest.out
    assert service.pages("/samples", owner=owner) == []
    assert service.status()["erasures"].keys() == {"completed"}

    nothing = command("erase", "--owner", owner)
    assert nothing.code == 1
    assert "no samples" in nothing.err
    for wrong in (("erase", samples[0]["id"], "--owner", owner), ("erase", "not-an-id")):
        refused = command(*wrong)
        assert refused.code == 1
        assert refused.err.startswith("oubli: ")
        assert "Traceback" not in refused.err


def test_status_is_told_at_a_glance(command: Command, service: Service) -> None:
    done = command("status")
    assert done.code == 0, done.err
    assert f"{service.status()['samples']:,} of" in done.out
    assert "1 alive of 1" in done.out
    assert "tiny on cpu" in done.out


def test_keys_are_made_listed_and_revoked(service: Service) -> None:
    def keys(*arguments: str | Path) -> Done:
        return oubli("keys", *arguments, "--data", service.data, env=service.env)

    name = f"for {uuid4().hex}"
    made = keys("create", "--scopes", "read, predict", "--name", name)
    assert made.code == 0, made.err
    secret, key_id = made.out.strip(), made.err.split()[0]
    assert secret.startswith("oubli_")
    assert UUID(key_id).version == 7
    listed = keys("list").out
    assert name in listed
    assert secret not in listed
    assert keys("revoke", key_id).code == 0
    with service.client_with(secret) as refused:
        assert refused.get("/status").status_code == 401
    for arguments in (("revoke", str(UUID(int=1))), ("create", "--scopes", "everything")):
        done = keys(*arguments)
        assert done.code == 1, arguments
        assert done.err.startswith("oubli: ")


def test_nobody_there_is_said_in_words(tmp_path: Path, pictures: list[Picture]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = oubli("status", "--url", url, "--data", tmp_path)
    assert done.code == 1
    assert f"Nothing answers at {url}" in done.err
    assert "oubli serve" in done.err
    assert "Traceback" not in done.err
    missing = oubli("ingest", tmp_path / "none", "--owner", "a", "--url", url, "--data", tmp_path)
    assert missing.code == 1
    assert "is not a folder" in missing.err


def test_a_missing_or_wrong_key_is_said_in_words(service: Service, tmp_path: Path) -> None:
    done = oubli("status", "--url", service.url, "--data", tmp_path)
    assert done.code == 1
    assert "Send an API key" in done.err
    wrong = oubli("status", "--url", service.url, "--data", tmp_path, env={"OUBLI_KEY": "wrong"})
    assert wrong.code == 1
    assert "not known" in wrong.err

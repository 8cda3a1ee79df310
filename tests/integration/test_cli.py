"""`oubli` as people type it, against a running service."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from PIL import Image

from tests.integration.harness import (
    REPOSITORY,
    Done,
    Picture,
    Service,
    assert_problem,
    digit_pictures,
    environment,
    free_port,
    oubli,
    until,
    upload,
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
    listed = service.pages("/samples", owner=owner)
    assert sorted(sample["label"] for sample in listed) == sorted(picture.label for picture in pictures[:9])
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
    listed = service.pages("/samples", owner=owner)
    assert len(listed) == len(pictures)
    assert len({sample["digest"] for sample in listed}) == len(pictures)


def test_a_folder_as_it_is_is_contributed_once(
    command: Command, service: Service, pictures: list[Picture], owner: str, tmp_path: Path
) -> None:
    """Whatever the client's settings say of images: with those of this client every picture has another digest."""
    photo = Image.open(io.BytesIO(pictures[0].data)).convert("RGB").resize((96, 80))
    folder = tmp_path / "album"
    (folder / "cat [tabby]").mkdir(parents=True)
    for name in ("one.PNG", "two.jfif", "three", "copy of one.png"):
        kind = "JPEG" if name == "two.jfif" else "PNG"
        photo.save(folder / "cat [tabby]" / name, kind)
    shutil.copytree(folder / "cat [tabby]", folder / "cat [tabby]" / "@eaDir")
    (folder / "cat [tabby]" / "k[").mkdir()
    (folder / "cat [tabby]" / "k[" / "b].jpg").write_text("no")
    arguments = ("ingest", folder, "--owner", owner, "--data", service.data, "--url", service.url)
    elsewhere = {**service.env, "OUBLI_INTAKE__MAX_SIDE": "16"}
    first, again = (oubli(*arguments, env=elsewhere) for _ in range(2))
    assert (first.code, again.code) == (1, 1), first.err + again.err
    assert "4 contributed, 0 held already, 1 refused." in first.out
    assert "0 contributed, 4 held already, 1 refused." in again.out
    assert f"{folder}/cat [tabby]/k[/b].jpg: " in first.out
    assert "1 left out, hidden" in first.out
    listed = service.pages("/samples", owner=owner)
    assert [sample["label"] for sample in listed] == ["cat [tabby]"] * 4
    assert len({sample["digest"] for sample in listed}) == 2


def test_an_image_of_a_batch_is_left_alone_if_so_many_are_held(
    service: Service, pictures: list[Picture], owner: str
) -> None:
    def send(*numbers: int | None) -> list[tuple[int, str]]:
        told = [{"label": "cat", "owner": owner, "unless_held": number} for number in numbers]
        files = upload("images", pictures[:1] * len(numbers))
        answer = service.client.post("/samples/batch", files=files, data={"metadata": json.dumps(told)})
        assert answer.status_code == 200, answer.text
        return [(item["status"], item["sample"]["id"]) for item in answer.json()["items"]]

    (first,) = send(1)
    assert first[0] == 201
    assert send(1) == [(200, first[1])]
    (listed, new, twin) = send(1, 2, 2)
    assert (listed, new[0], twin) == ((200, first[1]), 201, (200, new[1]))
    assert [status for status, _ in send(None)] == [201]
    told = json.dumps([{"label": "cat", "owner": owner, "unless_held": 0}])
    files = upload("images", pictures[:1])
    assert_problem(service.client.post("/samples/batch", files=files, data={"metadata": told}), 422, "unless_held")


def test_the_good_are_predicted_and_the_bad_are_named(
    command: Command, service: Service, pictures: list[Picture], owner: str, tmp_path: Path
) -> None:
    service.contribute(pictures[:4], owner)
    good, bad = tmp_path / pictures[0].name, tmp_path / "bad.heic"
    good.write_bytes(pictures[0].data)
    bad.write_bytes(b"no picture")
    done = command("predict", good, bad, good, "--json")
    assert done.code == 1, done.err
    told = json.loads(done.out)
    assert [one["file"] for one in told["predictions"]] == [str(good)] * 2
    assert [one["file"] for one in told["refused"]] == [str(bad)]


def test_several_owners_are_erased_at_once(command: Command, service: Service, pictures: list[Picture]) -> None:
    owners = [f"several-{uuid4().hex}" for _ in range(2)]
    service.contribute(pictures[:4], [owners[0], owners[1]] * 2)
    done = command("erase", "--owner", owners[0], "--owner", "nobody", "--owner", owners[1], "--yes", "--json")
    assert done.code == 1
    assert "owner nobody" in done.err
    told = json.loads(done.out)
    assert [erasure["subject"] for erasure in told["erasures"]] == [{"owner": each} for each in owners]
    assert {erasure["state"] for erasure in told["erasures"]} == {"completed"}
    assert [one["owner"] for one in told["refused"]] == ["nobody"]
    assert [service.pages("/samples", owner=each) for each in owners] == [[], []]


@pytest.mark.thorough
def test_what_looks_at_the_folder_itself_says_it_in_json(service: Service) -> None:
    audited = oubli("audit", "--json", "--rebuild", "1", "--data", service.data, env=service.env)
    assert json.loads(audited.out).keys() == {"differences", "unclear", "findings"}
    checked = oubli("restore-check", "--json", "--empty", "--data", service.data, env=service.env)
    assert json.loads(checked.out)["running"]
    beating = oubli("heartbeat", "--json", "--name", "embedded-1", "--data", service.data, env=service.env)
    assert json.loads(beating.out) == {"alive": ["embedded-1"]}


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

    unasked = command("erase", "--owner", owner)  # nobody is there to be asked
    assert unasked.code == 1
    assert "12 samples" in unasked.err
    assert "--yes" in unasked.err
    quoted = command("erase", "--owner", owner, "--quote")
    assert quoted.code == 0, quoted.err
    assert json.loads(quoted.out)["samples"] == 12
    assert len(service.pages("/samples", owner=owner)) == 12

    some = command("erase", samples[0]["id"], samples[1]["id"], "--yes")
    assert some.code == 0, some.err
    assert "2 samples" in some.out
    assert "Completed" in some.out
    rest = command("erase", "--owner", owner, "--yes")
    assert rest.code == 0, rest.err
    assert "10 samples" in rest.out
    assert service.pages("/samples", owner=owner) == []
    assert service.status()["erasures"].keys() == {"completed"}

    nothing = command("erase", "--owner", owner, "--yes")
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

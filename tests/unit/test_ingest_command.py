"""`oubli ingest` against a service that holds what it is told, by pixels that only it can see."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from service.cli import client as clients
from service.cli import printing
from tests.answering import Reply, Request, answering, problem, said
from tests.commands import HIDDEN, Done, command

NOT_A_PICTURE = "The file is not an image."


class Holding:
    """What `POST /samples/batch` promises. A file `pixels|how it is written` is the picture `pixels`."""

    def __init__(
        self, refuse: Callable[[list[bytes]], Reply | None] = lambda images: None, *, ready: bool = True
    ) -> None:
        self.survivors: list[tuple[str, str, str]] = []  # owner, label, digest
        self.ids: list[str] = []
        self.requests: list[list[bytes]] = []
        self._refuse = refuse
        self._ready = ready
        self.asked = 0  # whether it is ready
        self._lock = Lock()

    def __call__(self, request: Request) -> Reply:
        if (request.method, request.path) == ("GET", "/health/ready"):
            self.asked += 1
            return said({"serving": self._ready}, 200 if self._ready else 503)
        assert (request.method, request.path) == ("POST", "/samples/batch")  # nothing else is asked
        parts = re.findall(
            rb'name="(\w+)"(?:; filename="\d+")?\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', request.body, re.DOTALL
        )
        images = [data for name, data in parts if name == b"images"]
        (metadata,) = [json.loads(data) for name, data in parts if name == b"metadata"]
        assert len(images) == len(metadata)
        with self._lock:
            self.requests.append(images)
        reply = self._refuse(images)
        if reply is not None:
            return reply
        with self._lock:
            return said({"items": [self._take(*pair) for pair in zip(images, metadata, strict=True)]})

    def _take(self, image: bytes, told: dict[str, Any]) -> dict[str, Any]:
        if not image.startswith(b"\xff\xd8\xff"):
            return {"status": 415, "problem": {"title": "Unsupported", "detail": NOT_A_PICTURE}}
        wanted = (told["owner"], told["label"], image.partition(b"|")[0].hex())
        alike = [place for place, sample in enumerate(self.survivors) if sample == wanted]
        is_new = len(alike) < told["unless_held"]
        if is_new:
            self.survivors.append(wanted)
            self.ids.append(str(uuid4()))
        place = len(self.survivors) - 1 if is_new else alike[told["unless_held"] - 1]
        sample = {"id": self.ids[place], "label": wanted[1], "digest": wanted[2]}
        return {"status": 201 if is_new else 200, "sample": sample}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OUBLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUBLI_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(clients, "LEAST_PAUSE", 0.001)
    monkeypatch.setattr(clients, "TRIES", 3)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return tmp_path / "album"


def put(album: Path, **files: str) -> None:
    """Pictures `<label>__<name>=<pixels>|<how it is written>`."""
    for name, content in files.items():
        path = album.joinpath(*name.split("__")).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff" + content.encode())


def ingest(album: Path, url: str, *more: str) -> Done:
    return command("ingest", album, "--owner", "ada", "--url", url, *more)


def counts(done: Done) -> tuple[int, ...]:
    found = re.search(r"(\d+) contributed, (\d+) held already, (\d+) refused\.", done.out)
    assert found, done
    return tuple(map(int, found.groups()))


def test_it_is_contributed_once_however_often_it_is_sent(album: Path) -> None:
    put(album, cat__a="1", cat__b="2", dog__a="1")
    service = Holding()
    with answering(service) as url:
        assert [counts(ingest(album, url)) for _ in range(3)] == [(3, 0, 0), (0, 3, 0), (0, 3, 0)]
    assert len(service.survivors) == 3


def test_pictures_are_held_out_where_that_is_asked_for(album: Path) -> None:
    put(album, cat__a="1")
    told: list[dict[str, Any]] = []

    class Told(Holding):
        def _take(self, image: bytes, said: dict[str, Any]) -> dict[str, Any]:
            told.append(said)
            return super()._take(image, said)

    with answering(Told()) as url:
        for more in ((), ("--role", "training"), ("--role", "evaluation"), ("--role", "core")):
            assert ingest(album, url, *more).code == 0
        refused = ingest(album, url, "--role", "cores")
    common = {"label": "cat", "owner": "ada", "unless_held": 1}  # as an earlier release knows it
    assert told == [common, common, {**common, "role": "evaluation"}, {**common, "role": "core"}]
    assert refused.code == 2
    assert "'training', 'core', 'evaluation'" in refused.err


@pytest.mark.parametrize("most", ["1", "8"])
def test_copies_in_a_folder_are_copies_once(most: str, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the same bytes, and other files of the same pixels; in one request, and in several at once."""
    monkeypatch.setattr("service.cli.concurrency.CHUNK", 3)
    put(album, **{f"cat__{i:02}": f"same|{i % 5}" for i in range(20)}, dog__a="same|0", cat__z="other")
    service = Holding()
    with answering(service) as url:
        first, again = (ingest(album, url, "--in-flight", most) for _ in range(2))
        (album / "cat" / "99.jpg").write_bytes(b"\xff\xd8\xffsame|new")
        more = ingest(album, url, "--in-flight", most)
    assert (first.code, again.code, more.code) == (0, 0, 0)
    assert (counts(first), counts(again), counts(more)) == ((22, 0, 0), (0, 22, 0), (1, 22, 0))
    assert len(service.survivors) == 23


def test_what_an_erasure_took_is_contributed_again(album: Path) -> None:
    put(album, cat__a="1", cat__b="1", cat__c="2")
    service = Holding()
    with answering(service) as url:
        ingest(album, url)
        del service.survivors[0], service.ids[0]
        assert counts(ingest(album, url)) == (1, 2, 0)
    assert len(service.survivors) == 3


def test_no_setting_of_the_client_matters(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(album, cat__a="1")
    service = Holding()
    with answering(service) as url:
        ingest(album, url)
        monkeypatch.setenv("OUBLI_INTAKE__MAX_SIDE", "16")
        monkeypatch.setenv("OUBLI_INTAKE__MAX_BYTES", "1")
        assert counts(ingest(album, url)) == (0, 1, 0)


def test_one_bad_file_stops_no_other(album: Path) -> None:
    put(album, cat__a="1", cat__c="2")
    (album / "cat" / "b[").mkdir()
    (album / "cat" / "b[" / "].heic").write_bytes(b"no picture")
    service = Holding()
    with answering(service) as url:
        done = ingest(album, url)
        told = ingest(album, url, "--json")
    assert (done.code, counts(done)) == (1, (2, 0, 1))
    assert f"{album}/cat/b[/].heic: {NOT_A_PICTURE}" in done.out
    assert json.loads(told.out)["refused"] == [{"file": f"{album}/cat/b[/].heic", "reason": NOT_A_PICTURE}]


@pytest.mark.parametrize("status", [400, 413, 422, 500, 503])
def test_a_file_that_fails_its_whole_request_stops_no_other(status: int, album: Path) -> None:
    put(album, **{f"cat__{i}": str(i) for i in range(6)}, cat__poison="poison")

    def choke(images: list[bytes]) -> Reply | None:
        return problem(status, "No.") if any(b"poison" in image for image in images) else None

    service = Holding(choke)
    with answering(service) as url:
        done = ingest(album, url)
    assert (done.code, counts(done)) == (1, (6, 0, 1))
    assert "poison.jpg: Refused: No." in done.out
    assert len(service.survivors) == 6


def poisonous(status: int) -> Callable[[list[bytes]], Reply | None]:
    """Whatever holds the word is answered so."""
    return lambda images: problem(status, "No.") if any(b"poison" in image for image in images) else None


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("chunk", [64, 2])
def test_neighbours_that_each_fail_their_request_stop_no_other(
    status: int, chunk: int, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.concurrency.CHUNK", chunk)
    put(album, cat__a="1", cat__b="poison|b", cat__c="poison|c", cat__d="poison|d", **{f"cat__{i}": i for i in "efgh"})
    service = Holding(poisonous(status))
    with answering(service) as url:
        done = ingest(album, url, "--in-flight", "1")
    assert (done.code, counts(done)) == (1, (5, 0, 3))
    assert service.asked  # before it would have been given up
    for name in "bcd":
        assert f"{name}.jpg: Refused: No." in done.out


def test_files_of_two_requests_at_once_are_no_neighbours(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.concurrency.CHUNK", 3)
    put(album, cat__a="1", cat__b="poison|b", cat__c="3", cat__d="4", cat__e="poison|e", cat__f="6")
    service = Holding(poisonous(500), ready=False)
    with answering(service) as url:
        done = ingest(album, url, "--in-flight", "2")
    assert (done.code, counts(done)) == (1, (4, 0, 2))
    assert service.asked == 0


def test_a_service_that_says_it_is_ready_and_fails_ends_it_too(album: Path) -> None:
    put(album, **{f"cat__{i}": str(i) for i in range(30)})
    service = Holding(lambda _: problem(500, "No."))
    with answering(service) as url:
        done = ingest(album, url)
    assert done.code == 1
    assert "Stopped, with 30 files to go" in done.err
    assert len(service.requests) == 1 + 8


@pytest.mark.parametrize("status", [429, 507])
def test_what_no_file_is_the_cause_of_ends_it_however_ready_the_service_is(status: int, album: Path) -> None:
    put(album, cat__a="1", cat__b="2", cat__c="3")
    service = Holding(lambda _: problem(status, "Full."))
    with answering(service) as url:
        assert "Stopped, with 3 files to go" in ingest(album, url, "--in-flight", "1").err


@pytest.mark.parametrize(("ready", "end"), [(False, "Stopped, with 2 files to go"), (True, "")])
def test_of_files_that_go_alone_the_first_failure_asks(
    ready: bool, end: str, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.concurrency.CHUNK", 1)
    put(album, cat__a="poison", cat__b="2")
    service = Holding(poisonous(500), ready=ready)
    with answering(service) as url:
        done = ingest(album, url, "--in-flight", "1")
    assert (done.code, service.asked) == (1, 1)
    assert end in done.err
    assert len(service.survivors) == ready


def test_a_file_that_vanishes_stops_no_other(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(album, cat__a="1", cat__b="2")
    real = Path.read_bytes

    def vanish(path: Path) -> bytes:
        if path.name == "a.jpg":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", vanish)
    with answering(Holding()) as url:
        done = ingest(album, url)
    assert (done.code, counts(done)) == (1, (1, 0, 1))
    assert "a.jpg: cannot be read: No such file" in done.out


@pytest.mark.parametrize(("status", "requests"), [(401, 1), (403, 1), (404, 1), (503, 9), (507, 3)])
def test_what_is_wrong_with_all_ends_it_soon_and_is_said(status: int, requests: int, album: Path) -> None:
    put(album, **{f"cat__{i}": str(i) for i in range(9)})
    service = Holding(lambda _: problem(status, "Not for you."), ready=False)
    with answering(service) as url:
        done = ingest(album, url, "--in-flight", "1")
        told = ingest(album, url, "--json", "--in-flight", "1")
    assert (done.code, told.code) == (1, 1)
    assert len(service.requests) == 2 * requests  # tries of the whole, and of two files by themselves
    assert re.search(r"oubli: Stopped, with [89] files to go: Refused: Not for you\. Run it again to go on\.", done.err)
    assert json.loads(told.out)["stopped"] == "Refused: Not for you."


def test_a_busy_answer_for_one_file_is_not_the_end(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.concurrency.CHUNK", 2)
    put(album, **{f"cat__{i}": str(i) for i in range(6)})
    service = Holding(lambda images: problem(503, "Going.") if b"\xff\xd8\xff2" in images else None)
    with answering(service) as url:
        done = ingest(album, url, "--in-flight", "1")
    assert done.code == 1
    assert counts(done)[0] == 5  # only one file is by itself to blame
    assert "2.jpg: Refused: Going." in done.out


def test_answers_that_make_no_sense_end_it(album: Path) -> None:
    put(album, cat__a="1", cat__b="2")
    one = {"status": 200, "sample": {"id": "x", "digest": "d", "label": "cat"}}
    for items in ([], [one], [one] * 2, ["x", "y"], "xy", [{"status": 201}] * 2):
        with answering(lambda _, items=items: said({"items": items})) as url:
            done = ingest(album, url)
        assert done.code == 1, done
        assert "Is it Oubli" in done.err


# ------------------------------------------------------------------------------------------------- folders as they are


def test_the_bar_names_the_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(markup=False, emoji=False, highlight=False, force_terminal=True, width=200)
    monkeypatch.setattr(printing, "console", screen)
    album = tmp_path / f"cat [tabby] [b] :smile:{HIDDEN}"
    put(album, cat__a="1")
    with answering(Holding()) as url:
        done = ingest(album, url)
    assert done.code == 0
    assert r"Ingesting cat [tabby] [b] :smile:\x1b[2J\x07\u202e" in done.out
    assert "\x07" not in done.out


def test_everything_left_out_is_counted_and_named(album: Path) -> None:
    put(album, cat__a="1")
    for name in ("cat/._a.jpg", "cat/@eaDir/a.jpg", ".DS_Store", "cat/notes [b].txt", "stray.png"):
        path = album / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"words")
    with answering(Holding()) as url:
        done = ingest(album, url)
        told = json.loads(ingest(album, url, "--json").out)
    assert (done.code, counts(done)) == (0, (1, 0, 0))
    assert "3 left out, hidden, or left behind by a system:" in done.out
    assert "1 left out, not pictures:" in done.out
    assert "1 left out, pictures in no class folder:" in done.out
    for name in ("cat/._a.jpg", "cat/@eaDir", ".DS_Store", "cat/notes [b].txt", "stray.png"):
        assert f"\n  {album}/{name}\n" in done.out
        assert f"{album}/{name}" in [entry["file"] for entry in told["left_out"]]
    assert (told["contributed"], told["held"], told["refused"], told["stopped"]) == (0, 1, [], None)


@pytest.mark.parametrize(("name", "data"), [("raw.CR2", b"II*\0"), ("gone.jpg", None)])
def test_what_a_person_would_want_and_cannot_be_read_is_no_success(name: str, data: bytes | None, album: Path) -> None:
    put(album, cat__a="1")
    path = album / "cat" / name
    path.symlink_to("/nowhere/x.jpg") if data is None else path.write_bytes(data)
    with answering(Holding()) as url:
        done = ingest(album, url)
    assert (done.code, counts(done)) == (1, (1, 0, 0))
    assert f"  {path}\n" in done.out


def test_many_of_a_kind_are_counted_and_the_first_are_named(album: Path) -> None:
    put(album, cat__a="1")
    for i in range(30):
        (album / "cat" / f".{i:02}").touch()
    with answering(Holding()) as url:
        done = ingest(album, url)
    assert "30 left out" in done.out
    assert "... and 10 more" in done.out
    assert (".19" in done.out, ".20" in done.out) == (True, False)


def test_a_label_that_is_not_utf_8_is_read_and_said(album: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(album) + b"/caf\xe9"))
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"\xff\xd8\xff1")
    service = Holding()
    with answering(service) as url:
        done = ingest(album, url)
        told = json.loads(ingest(album, url, "--json").out)
    assert (done.code, counts(done)) == (0, (1, 0, 0))
    assert [label for _, label, _ in service.survivors] == ["café"]
    assert rf"{album}/caf\xe9 is not UTF-8, and was read as Windows-1252: café" in done.out
    assert told["labels_guessed"] == [{"folder": str(folder), "label": "café"}]


def test_a_folder_without_pictures_says_what_there_is(album: Path) -> None:
    (album / "cat").mkdir(parents=True)
    (album / "cat" / ".hidden.jpg").touch()
    done = ingest(album, "http://127.0.0.1:9")
    assert done.code == 1
    assert ".hidden.jpg" in done.out
    assert done.err.startswith(f"oubli: {album} has no class folders with images")

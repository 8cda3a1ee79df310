"""What commands print, how they are called, and how they fail on a data folder: without a service, in this process."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from rich.table import Table

from service import __version__, log
from service.cli import ingest, printing
from service.cli.main import app
from tests.answering import Reply, Request, answering, problem, said
from tests.commands import Done, command

REPOSITORY = Path(__file__).parents[2]
ID = "01993c5e-7d7a-7cc2-9d0e-3f0a3a1b2c3d"
ODD = "cat [tabby] [/] [/b] [red]x[/red] :smile:"
HIDDEN = "\x1b[2J\x07\u202e"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OUBLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUBLI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # `oubli api` sets it
    monkeypatch.setattr(log, "configure", lambda *_: None)  # ... and other tests listen to logs


def assert_one_line(done: Done, *words: str, code: int) -> None:
    assert done.code == code, done
    (line,) = done.err.splitlines()
    assert line.startswith("oubli: ")
    for word in words:
        assert word in line, done


# --------------------------------------------------------------------------------------------------- being called


def every_command() -> list[str]:
    from typer.main import get_command

    names = list(get_command(app).commands)
    return [name for name in names if name != "keys"] + [f"keys {name}" for name in ("create", "list", "revoke")]


@pytest.mark.parametrize("name", every_command())
def test_every_command_has_its_help_with_its_defaults(name: str) -> None:
    long, short = (command(*name.split(), option) for option in ("--help", "-h"))
    assert (long.code, long.out) == (0, short.out)
    for option, default in (("--data ", "[default: OUBLI_DATA_DIR, or"), ("--port ", "[default: 8000")):
        if option in long.out and name != "evaluate":
            assert default in " ".join(long.out.split())


def test_the_list_of_commands_cuts_nothing() -> None:
    assert "..." not in command("--help").out.partition("Commands:")[2]


def test_the_version_is_that_of_the_distribution() -> None:
    assert command("--version") == Done(0, f"oubli {__version__}\n", "")
    assert json.loads((REPOSITORY / "openapi.json").read_text())["info"]["version"] == __version__
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "service.__version__"}


def test_shells_can_complete_it() -> None:
    assert "--install-completion" in command("--help").out


def test_every_hint_names_our_own_distribution() -> None:
    """Another project has the name `oubli` in the public index."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["name"] == "oubli-server"
    extra = re.compile(r"(?<![\w-])oubli\[")
    places = [REPOSITORY / "README.md", REPOSITORY / "pyproject.toml", REPOSITORY / "Makefile"]
    for folder in ("service", "workers", "models", "docs", "docker", "benchmarks"):
        places += [path for path in (REPOSITORY / folder).rglob("*") if path.suffix in {".py", ".md", ".lock", ""}]
    found = [path for path in places if path.is_file() and extra.search(path.read_text(errors="replace"))]
    assert found == []


# ----------------------------------------------------------------------------------------------- other people's text


def test_others_text_is_no_markup_and_moves_no_cursor() -> None:
    assert printing.plain(ODD) == ODD
    assert printing.plain(f"a{HIDDEN}\nb\ud800") == r"a\x1b[2J\x07\u202e\nb\ud800"
    assert printing.plain("José 👩‍👧 کتاب\u200cها　") == "José 👩‍👧 کتاب\u200cها　"  # joiners are part of words
    assert printing.plain(Path(os.fsdecode(b"caf\xe9.jpg"))) == r"caf\xe9.jpg"


@pytest.mark.parametrize("columns", ["20", "80"])
def test_tables_and_lines_are_never_cut(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    path = "/".join(["folder [b]"] * 30)
    table = Table("id", ODD)
    table.add_row(ID, path)
    printing.show(table)
    printing.say(path)
    out = capsys.readouterr().out
    assert all(whole in out for whole in (ID, path, ODD))
    assert out.splitlines()[-1] == path


def test_a_key_with_brackets_in_its_name_is_listed(tmp_path: Path) -> None:
    assert command("migrate").code == 0
    for name in (ODD, "[/]"):
        assert command("keys", "create", "--scopes", "read", "--name", name).code == 0
    listed = command("keys", "list")
    assert listed.code == 0
    assert ODD in listed.out
    found = json.loads(command("keys", "list", "--json").out)
    assert [key["name"] for key in found] == [ODD, "[/]"]
    assert all(key["id"] in listed.out for key in found)
    assert found[0]["revoked_at"] is None
    assert found[0]["scopes"] == ["read"]


def prediction(label: str) -> dict[str, object]:
    return {"label": label, "score": 0.5, "cluster": ID, "tier": "prompt [x]", "degraded": True}


def test_predictions_show_labels_and_names_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "photo [final][" / "].jpg"
    path.parent.mkdir()
    path.write_bytes(b"x")
    with answering(lambda _: said({"predictions": [prediction(ODD)]})) as url:
        done = command("predict", path, "--url", url)
        told = json.loads(command("predict", path, "--url", url, "--json").out)
    assert (done.code, done.err) == (0, "")
    for text in (str(path), ODD, ID, "prompt [x]", "degraded"):
        assert text in done.out
    assert told == {"predictions": [{"file": str(path), **prediction(ODD)}], "refused": []}


def test_statuses_show_names_as_they_are() -> None:
    worker = {"name": f"w[/]{HIDDEN}", "device": "cpu [0]", "queues": ["[b]"], "alive": False}
    status = {
        "samples": 1234, "owners": 5, "clusters": {"[x]": 1}, "erasures": {}, "device": "cpu",
        "closed_form": {"samples": 1, "digest": ID}, "workers": [{**worker, "heard_at": None, "claimed_at": None}],
        "backbone": {"name": ODD},
    }  # fmt: skip
    with answering(lambda _: said(status)) as url:
        done = command("status", "--url", url)
        assert json.loads(command("status", "--json", "--url", url).out) == status
    assert done.code == 0, done
    for text in ("1,234 of 5", "1 [x]", r"SILENT, w[/]\x1b[2J\x07\u202e: cpu [0], [b]; last bell never", ODD, ID):
        assert text in done.out
    assert "\x1b" not in done.out


# ------------------------------------------------------------------------------------------------------ prediction


def picky(request: Request) -> Reply:
    """As the service: all images of a request, or none and the names of those that are at fault."""
    images = re.findall(rb'filename="\d+"\r\n(?:.+\r\n)*\r\n(.*)\r\n', request.body)
    bad = [{"field": f"image[{i}]", "detail": "No image."} for i, data in enumerate(images) if data == b"bad"]
    if bad:
        return problem(415, "No image.", title="Unsupported media type", errors=bad)
    return said({"predictions": [prediction(data.decode()) for data in images]})


def test_the_good_are_answered_and_the_bad_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.jpg", "bad.heic", "also-good.png", "folder", "missing.jpg")]
    for path, data in zip(paths, (b"cat", b"bad", b"dog"), strict=False):
        path.write_bytes(data)
    paths[3].mkdir()
    with answering(picky) as url:
        done = command("predict", *paths, "--url", url)
        told = command("predict", *paths, "--url", url, "--json")
        only_bad = command("predict", paths[1], "--url", url)
    assert done.code == told.code == only_bad.code == 1
    assert (done.err, told.err) == ("", "")
    rows = [line for line in done.out.splitlines() if "│" in line]
    assert len(rows) == 2
    assert "good.jpg" in rows[0]
    assert "cat" in rows[0]
    assert f"{paths[1]}: No image." in done.out
    assert f"{paths[3]}: is a folder." in done.out
    assert f"{paths[4]}: cannot be read: No such file or directory." in done.out
    answer = json.loads(told.out)
    assert [one["file"] for one in answer["predictions"]] == [str(paths[0]), str(paths[2])]
    assert [one["file"] for one in answer["refused"]] == [str(path) for path in (paths[1], paths[3], paths[4])]
    assert only_bad.out == f"{paths[1]}: No image.\n"


def test_where_a_request_is_refused_as_a_whole_files_are_sent_one_by_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        path.write_bytes(b"large" if path.name == "1.jpg" else b"ok")

    def small_proxy(request: Request) -> Reply:
        if b"large" in request.body:
            return Reply(413, b"<html>", {"Content-Type": "text/html"})
        return picky(request)

    with answering(small_proxy) as url:
        told = command("predict", *paths, "--url", url, "--json")
    answer = json.loads(told.out)
    assert told.code == 1
    assert [one["file"] for one in answer["predictions"]] == [str(paths[0]), str(paths[2])]
    assert [one["file"] for one in answer["refused"]] == [str(paths[1])]
    assert "413" in answer["refused"][0]["reason"]


# ---------------------------------------------------------------------------------------------------------- erasing


class Erasing:
    """A service that holds two samples of `ada` and of `bela [x]`, and of nobody else."""

    def __init__(self) -> None:
        self.erased: list[object] = []

    def __call__(self, request: Request) -> Reply:
        if request.method == "GET":
            return said(self.erasure(request.path.rsplit("/", 1)[1]))
        body = request.json
        if "owner" in body and body["owner"] not in ("ada", "bela [x]"):
            return problem(404, f"{body['owner']} has no samples.", title="Not found")
        if body.get("validate_only"):
            return said({"samples": 2, "clusters": [ID], "sample_epochs": 8, "seconds": 1.5})
        self.erased.append(body.get("owner") or body["samples"])
        return said(self.erasure(ID), 202)

    @staticmethod
    def erasure(name: str) -> dict[str, object]:
        clusters = [{"state": "restored"}, {"state": "retraining"}]
        return {"id": name, "state": "completed", "samples": 2, "clusters": clusters, "restored_at": None}


@pytest.mark.parametrize(
    ("answer", "is_erased"),
    [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yup\n", False), ("no\ny\n", False)],
)
def test_it_asks_before_it_erases(answer: str, is_erased: bool) -> None:
    service = Erasing()
    with answering(service) as url:
        done = command("erase", "--owner", "ada", "--url", url, stdin=answer)
    assert "owner ada: 2 samples, in 1 clusters." in done.err
    assert "[y/N]" in done.err
    assert (done.code == 0, service.erased) == ((True, ["ada"]) if is_erased else (False, []))
    assert ("Completed" in done.out) is is_erased
    if not answer:
        assert "--yes" in done.err


@pytest.mark.parametrize("option", ["--yes", "-y"])
def test_scripts_say_yes(option: str) -> None:
    service = Erasing()
    with answering(service) as url:
        done = command("erase", ID, "--url", url, option)
    assert (done.code, done.err, service.erased) == (0, "", [[ID]])
    assert f"Erasure {ID}: 2 samples" in done.out


def test_every_owner_is_erased_and_one_that_has_nothing_is_named() -> None:
    service = Erasing()
    owners = [word for name in ("ada", "nobody", "bela [x]", "ada") for word in ("--owner", name)]
    with answering(service) as url:
        done = command("erase", *owners, "--url", url, "--json", stdin="y\n")
        alone = command("erase", "--owner", "nobody", "--url", url, "--yes")
    assert service.erased == ["ada", "bela [x]"]
    assert done.code == 1
    assert "oubli: owner nobody: Not found: nobody has no samples." in done.err
    told = json.loads(done.out)
    assert [erasure["state"] for erasure in told["erasures"]] == ["completed"] * 2
    assert told["refused"] == [{"owner": "nobody", "reason": "Not found: nobody has no samples."}]
    assert_one_line(alone, "nobody has no samples", code=1)


def test_a_quote_erases_nothing_and_does_not_ask() -> None:
    service = Erasing()
    with answering(service) as url:
        one = command("erase", "--owner", "ada", "--quote", "--url", url)
        two = command("erase", "--owner", "ada", "--owner", "bela [x]", "--quote", "--url", url)
    assert (one.code, one.err, two.code, two.err) == (0, "", 0, "")
    assert json.loads(one.out)["samples"] == 2
    assert [quote["samples"] for quote in json.loads(two.out)] == [2, 2]
    assert service.erased == []


@pytest.mark.parametrize("arguments", [[], [ID, "--owner", "ada"]])
def test_what_to_erase_is_said_in_one_way(arguments: list[str]) -> None:
    assert_one_line(command("erase", *arguments, "--yes"), "either sample ids or --owner", code=1)


# --------------------------------------------------------------------------------------------- audits and retries


@pytest.mark.parametrize("text", ["nonsense", "", "-1", "1.5", "ALL", "²", "0x10", "01993c5e", f"{ID}/.."])
def test_an_audit_that_would_rebuild_nothing_is_refused(text: str) -> None:
    assert_one_line(command("audit", f"--rebuild={text}"), "neither `all`, nor a number, nor a cluster", code=2)


@pytest.mark.parametrize("text", ["nonsense", "../erasures", "x/../../owners/ada"])
def test_a_retry_of_what_is_no_cluster_is_refused_and_not_sent(text: str) -> None:
    asked: list[Request] = []
    with answering(lambda request: asked.append(request) or Reply()) as url:
        assert_one_line(command("retry", text, "--url", url), "no cluster's id", code=1)
    assert asked == []


def test_a_retry_says_which_in_json() -> None:
    failed = {"items": [{"id": ID, "state": "failed"}, {"id": "x", "state": "serving"}], "next_cursor": None}
    with answering(lambda request: said(failed if request.method == "GET" else {})) as url:
        assert json.loads(command("retry", "--json", "--url", url).out) == {"retried": [ID]}


def test_settings_in_json_are_those_of_the_table() -> None:
    table, told = command("settings").out, json.loads(command("settings", "--json").out)
    assert len(table.splitlines()) == len(told) + 2
    assert {"variable", "default", "description"} == set(told[0])


# ----------------------------------------------------------------------------------------- folders that cannot be used

ON_FOLDERS = [["audit"], ["restore-check"], ["keys", "list"], ["api"], ["heartbeat"]]
MAKING = [["serve", "--port", "PORT"], ["migrate"]]


@pytest.fixture(params=[*ON_FOLDERS, *MAKING], ids=" ".join)
def on_folder(request: pytest.FixtureRequest) -> list[str]:
    words: list[str] = request.param
    return with_port(words)


def with_port(words: list[str]) -> list[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return [word.replace("PORT", str(probe.getsockname()[1])) for word in words]


def damage_by_noise(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def damage_within(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.commit()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 1000)


@pytest.mark.parametrize("damage", [damage_by_noise, damage_within])
def test_a_damaged_registry_is_said_in_a_line(
    damage: Callable[[Path], None], on_folder: list[str], tmp_path: Path
) -> None:
    damage(tmp_path / "registry.db")
    assert_one_line(command(*on_folder, "--data", tmp_path), "damaged", "backup", code=2)


def test_a_data_folder_that_is_a_file_is_said(on_folder: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"file {HIDDEN}"
    path.write_text("mine")
    assert_one_line(command(*on_folder, "--data", path), r"file \x1b[2J\x07\u202e is a file", code=2)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("words", MAKING, ids=" ".join)
def test_a_data_folder_that_cannot_be_made_is_said(words: list[str]) -> None:
    done = command(*with_port(words), "--data", "/proc/x")
    assert_one_line(done, "folder /proc/x cannot be used: No such file", code=2)


@pytest.mark.parametrize("words", ON_FOLDERS, ids=" ".join)
def test_a_data_folder_that_is_not_there_is_said_and_not_made(words: list[str], tmp_path: Path) -> None:
    assert_one_line(command(*words, "--data", "/proc/x"), "no folder /proc/x", "--data", code=1)
    assert_one_line(command(*words, "--data", tmp_path), "no registry in", "oubli migrate", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_registry_of_another_program_is_said(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "registry.db")) as database:
        database.execute("CREATE TABLE pictures (id)")
    assert_one_line(command("heartbeat", "--data", tmp_path), "no registry of this release", code=2)
    assert_one_line(command("audit", "--data", tmp_path), "no registry of this release", code=2)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(Path, "mkdir", full)
    assert_one_line(command("migrate", "--data", tmp_path / "new"), "cannot be used: No space left on device", code=2)


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ingest, "find", mistaken)
    with pytest.raises(ZeroDivisionError):
        command("ingest", tmp_path, "--owner", "ada")

"""How commands are called, and how they print text that is not their own: without a service, in this process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.table import Table
from typer.main import get_command

from service import __version__
from service.cli import auditor, printing, restore
from service.cli.main import app
from service.clock import system_clock
from service.core.audit import Finding
from service.registry import workers
from service.registry.engine import Registry
from tests.answering import answering, said
from tests.commands import HIDDEN, ID, ODD, Done, command

pytestmark = pytest.mark.usefixtures("command_environment")
REPOSITORY = Path(__file__).parents[2]


def commands_of(group: Any, *before: str) -> dict[str, Any]:
    """Every command by its words, whatever group it is in."""
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        found |= commands_of(one, *before, name) if hasattr(one, "commands") else {" ".join([*before, name]): one}
    return found


COMMANDS = commands_of(get_command(app))
PRINT_NO_DATA = {"serve", "api", "worker", "beat", "migrate", "demo", "keys revoke"}
ALWAYS_JSON = {"openapi"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help_with_its_defaults(name: str) -> None:
    long, short = (command(*name.split(), option) for option in ("--help", "-h"))
    assert (long.code, long.out) == (0, short.out)
    words = " ".join(long.out.split())
    if "--data DIRECTORY" in words or "--data PATH" in words:
        assert "[default: OUBLI_DATA_DIR, or" in words or name == "evaluate"
    for parameter in COMMANDS[name].params:
        if parameter.default in (None, False, (), []):
            continue
        shown = parameter.opts[0].removeprefix("--") if parameter.default is True else str(parameter.default)
        assert f"[default: {shown}" in words or f"; default: {shown}" in words, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_prints_data_has_it_in_json(name: str) -> None:
    has = any("--json" in parameter.opts for parameter in COMMANDS[name].params)
    assert has == (name not in PRINT_NO_DATA | ALWAYS_JSON)


def test_the_list_of_commands_cuts_nothing() -> None:
    assert "..." not in command("--help").out.partition("Commands:")[2]


def test_the_version_is_that_of_the_distribution() -> None:
    assert command("--version") == Done(0, f"oubli {__version__}\n", "")
    assert json.loads((REPOSITORY / "openapi.json").read_text())["info"]["version"] == __version__
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "service.__version__"}


def test_shells_can_complete_it() -> None:
    assert "--install-completion" in command("--help").out
    start = "import sys; sys.argv = ['oubli']; from service.cli.main import main; main()"
    for words, answer in (("oubli ke", {"keys"}), ("oubli keys ", {"create", "list", "rotate", "revoke"})):
        typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_OUBLI_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-c", start], env={**os.environ, **typed}, cwd=REPOSITORY, capture_output=True, check=False
        )
        assert {*done.stdout.decode().split()} == answer, done


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


def test_a_key_s_secret_is_part_of_its_json() -> None:
    assert command("migrate").code == 0
    done = command("keys", "create", "--scopes", "read,predict", "--name", ODD, "--expires-in", "9d", "--json")
    made = json.loads(done.out)
    assert (made["name"], made["scopes"], done.err) == (ODD, ["predict", "read"], "")
    assert made["secret"].startswith("oubli_")
    assert made["expires_at"] is not None
    done = command("keys", "rotate", made["id"], "--overlap", "1h", "--json")
    rotated = json.loads(done.out)
    assert rotated["secret"] not in ("", made["secret"])
    assert rotated["secret"].startswith("oubli_")
    assert (rotated["name"], rotated["replaces"]["id"], done.err) == (ODD, made["id"], "")
    assert rotated["replaces"]["replaced_by"] == rotated["id"]
    listed = command("keys", "list", "--json").out
    assert made["secret"] not in listed
    assert {key["id"] for key in json.loads(listed)} == {made["id"], rotated["id"]}


# ------------------------------------------------------------------------------------- text of others, by command

AS_SHOWN = r"\x1b[2J\x07\u202e"  # HIDDEN


def assert_as_it_is(text: str) -> None:
    assert ODD in text
    assert AS_SHOWN in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_heartbeats_show_names_of_workers_as_they_are(tmp_path: Path) -> None:
    assert command("migrate").code == 0
    name = f"{ODD}{HIDDEN}"
    registry = Registry(tmp_path / "data" / "registry.db")
    with registry.write() as session:
        workers.register(session, name=name, device="cpu", queues=["additions"], now=system_clock())
    registry.close()
    assert_as_it_is(command("heartbeat", "--name", name).out)
    assert json.loads(command("heartbeat", "--name", name, "--json").out) == {"alive": [name]}
    assert_as_it_is(command("heartbeat", "--name", f"not {name}").err)


def test_audits_show_what_they_find_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(f"object {ODD}{HIDDEN}", f"is {ODD}{HIDDEN}")
    monkeypatch.setattr("service.core.audit.audit", lambda *_, advance: advance(ODD, 1, 1) or iter([finding]))
    nothing: Any = None
    with printing.progress_bar() as bar:
        assert auditor._findings(nothing, nothing, bar, aloud=True) == [finding]
    assert_as_it_is(capsys.readouterr().out)


def test_restore_checks_show_what_they_find_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found: Any = SimpleNamespace(
        is_clean=False, returned={ID}, reading=SimpleNamespace(tombstones=[ID]), lines=lambda: [f"{ODD}{HIDDEN}"]
    )
    restore._tell(found, again=False, running=[f"{ODD}{HIDDEN}"], as_json=False)
    said = capsys.readouterr().out
    assert_as_it_is(said)
    assert said.count(AS_SHOWN) == 2


def test_centroids_name_files_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUBLI_BACKBONE", "tiny")
    folder = tmp_path / "public [b]"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (90 * number, 10, 200)).save(folder / f"{number}.png")
    odd = f"cat [tabby]{HIDDEN}"
    (folder / f"{odd}.jpg").write_bytes(b"\xff\xd8\xff and no picture")
    out = tmp_path / f"{odd}.npy"
    done = command("centroids", folder, "--clusters", "2", "--out", out)
    assert done.code == 0, done
    for words in (done.out, done.err):
        assert f"cat [tabby]{AS_SHOWN}" in words
        assert "\x1b[2J" not in words
    done = command("centroids", folder, "--clusters", "2", "--out", out, "--json")
    assert json.loads(done.out) == {"centroids": 2, "images": 3, "file": str(out)}


def test_statuses_show_names_as_they_are() -> None:
    worker = {"name": f"w[/]{HIDDEN}", "device": "cpu [0]", "queues": ["[b]"], "alive": False}
    status = {
        "samples": 1234, "evaluation_samples": 67, "owners": 5, "clusters": {"[x]": 1}, "erasures": {}, "device": "cpu",
        "closed_form": {"samples": 1, "digest": ID, "ridge": 0.03, "temperature": 0.07, "chosen_from": 2048,
                        "settled": False}, "workers": [{**worker, "heard_at": None, "claimed_at": None}],
        "backbone": {"name": ODD},
    }  # fmt: skip
    with answering(lambda _: said(status)) as url:
        done = command("status", "--url", url)
        assert json.loads(command("status", "--json", "--url", url).out) == status
    assert done.code == 0, done
    for text in (
        "1,234 of 5",
        "1 [x]",
        r"SILENT, w[/]\x1b[2J\x07\u202e: cpu [0], [b]; notified never",
        ODD,
        ID,
        "lambda 0.03, temperature 0.07, chosen from 2,048 samples; to be chosen anew",
    ):
        assert text in done.out
    assert "\x1b" not in done.out

"""How commands are called, and how they print text that is not their own: without a service, in this process."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from rich.table import Table

from service import __version__
from service.cli import printing
from service.cli.main import app
from tests.answering import answering, said
from tests.commands import HIDDEN, ID, ODD, Done, command

pytestmark = pytest.mark.usefixtures("command_environment")
REPOSITORY = Path(__file__).parents[2]


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
    for text in ("1,234 of 5", "1 [x]", r"SILENT, w[/]\x1b[2J\x07\u202e: cpu [0], [b]; notified never", ODD, ID):
        assert text in done.out
    assert "\x1b" not in done.out

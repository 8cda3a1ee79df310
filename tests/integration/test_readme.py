"""What README says works: its walk is run, its table is the settings' own, its files exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from service.settings import describe
from tests.integration.harness import REPOSITORY, Picture, Service
from tests.programs import program

README = (REPOSITORY / "README.md").read_text()


def walk() -> tuple[str, str]:
    """The walk's commands, before and after the moment that training takes."""
    block = re.search(r"<!-- walk.*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    contribute, found, rest = block.group(1).partition("# a moment later")
    assert found
    return contribute, found + rest


def run(script: str, service: Service, folder: Path) -> list[object]:
    """The script's answers, with the test's service in place of README's."""
    settings, script = script.split("\n\n", 1) if "KEY=" in script else ("", script)
    assert ("KEY=" in settings) == ("API=" in settings)
    prelude = f"set -eu\nKEY={service.key}\nAPI={service.url}\n"
    done = subprocess.run(
        ["bash", "-c", prelude + re.sub(r"^(curl .*)$", r"\1; echo", script, flags=re.MULTILINE)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_the_walk_works_word_for_word(service: Service, pictures: list[Picture], tmp_path: Path) -> None:
    program("curl")
    for name, picture in zip(("cat.jpg", "dog.jpg"), pictures, strict=False):
        (tmp_path / name).write_bytes(picture.data)
    before, after = walk()
    ada, bela = run(before, service, tmp_path)
    assert (ada["owner"], bela["label"]) == ("ada", "dog")
    service.settle()

    clusters, predicted, mine, quote, erasure, listed = run(after, service, tmp_path)
    assert clusters["items"]
    assert predicted["predictions"][0]["scores"]
    assert [sample["id"] for sample in mine["items"]] == [ada["id"]]
    assert quote["samples"] == 1
    assert erasure["subject"] == {"owner": "ada"}
    assert listed["items"][0]["id"] == erasure["id"]
    service.client.delete("/owners/bela")
    service.settle()


def test_the_table_of_settings_is_the_settings_own() -> None:
    table = README.split("<!-- settings -->\n")[1].split("<!-- /settings -->")[0]
    rows = [f"| `{name}` | {f'`{default}`' if default else ''} | {words} |" for name, default, words in describe()]
    assert table.splitlines() == ["| Variable | Default | |", "|---|---|---|", *rows]


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_promised_commands_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    promised = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= promised <= targets

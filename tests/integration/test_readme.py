"""What README and the quick start say works: their walks are run word for word, their answers are those shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import documents
from tests.integration.harness import REPOSITORY, Service, environment, oubli
from tests.programs import program

ADDRESS = "http://127.0.0.1:8000"
AS_SHIPPED = {"OUBLI_BACKBONE": "tiny", "OUBLI_TRAINING__PROMPT_SIZE": "2"}  # but for the backbone


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that holds nothing: the documents show whole answers."""
    with Service(tmp_path_factory.mktemp("walks"), env=AS_SHIPPED, name="oubli-data").start() as running:
        (running.folder / "docs").symlink_to(REPOSITORY / "docs")
        yield running


def run(step: documents.Step, service: Service, settings: str) -> list[str]:
    """The lines that a step prints, in the folder of the service's data; the test's address in place of 8000."""
    script = (settings + step.commands).replace(ADDRESS, service.url)
    script = re.sub(r"^(curl .*)$", r"\1; echo", script, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", "set -eu\n" + script],
        cwd=service.folder,
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.strip()]


@pytest.mark.parametrize("document", [documents.README, documents.QUICKSTART])
def test_a_walk_works_word_for_word(document: str, empty: Service) -> None:
    program("curl")
    steps = documents.walk(document)
    settings = "".join(re.findall(r"^[A-Z]+=.*\n", steps[0].commands, re.MULTILINE))
    assert len(settings.splitlines()) == 3
    assert sum(len(step.shown) for step in steps) >= 6
    for step in steps:
        answers = run(step, empty, "" if step is steps[0] else settings)
        assert len(answers) == len(step.shown), step.commands
        for shown, answer in zip(step.shown, answers, strict=True):
            assert documents.differences(json.loads(shown), json.loads(answer)) == [], answer
    empty.client.delete("/owners/bela")
    empty.settle()


def test_the_audit_of_the_quick_start_says_what_is_shown(empty: Service) -> None:
    command = documents.block(documents.QUICKSTART, "audit")
    assert command.startswith(".venv/bin/oubli ")
    done = oubli(*command.split()[1:], "--data", empty.data, env=empty.env)
    shown = documents.text_of(documents.QUICKSTART).partition("<!-- audit")[2].partition("```text\n")[2]
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == shown.partition("\n```")[0]  # above it, what was checked


def test_every_file_of_the_walks_is_there() -> None:
    for document in (documents.README, documents.QUICKSTART, documents.DEPLOYMENT):
        files = re.findall(r"-F image=@(\S+)", documents.text_of(document))
        assert files
        assert [name for name in files if not os.path.getsize(REPOSITORY / name)] == []


def test_no_document_has_curl_hide_its_errors() -> None:
    pages = [REPOSITORY / documents.README, *Path(REPOSITORY / "docs").rglob("*.md")]
    assert [page.name for page in pages if re.search(r"curl -s ", page.read_text())] == []


def test_the_promised_commands_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    promised = set(re.findall(r"^make ([a-z-]+)", documents.text_of(documents.README), re.MULTILINE))
    assert {"demo", "test", "check", "test-all", "docs"} <= promised <= targets
    contributing = set(re.findall(r"^make ([a-z-]+)", documents.text_of("CONTRIBUTING.md"), re.MULTILINE))
    assert contributing <= targets


def test_readme_says_all_that_ci_runs() -> None:
    runs = re.findall(r"^(?!#|set |cd )\S.*$", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    assert runs
    assert all(command.startswith("make ") for command in runs)
    assert [command for command in runs if f"`{command}`" not in documents.text_of(documents.README)] == []


def test_readme_is_short() -> None:
    assert len(documents.text_of(documents.README).splitlines()) <= 150

"""The check of citations finds what is cited and not there, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from tools import cited_files

FILES = {
    ".gitignore": "results/\n",
    "README.md": "# Product\n\n## First steps\n\nSee [the page](docs/page.md#a-part-of-it) and `core/plan.py`.\n",
    "docs/page.md": "# Page\n\n## A part of it\n\nDecision 1 and decisions 1 and 2; docs/decisions/0002.\n",
    "docs/decisions/0001-first.md": "# 0001: First\n",
    "docs/decisions/0002-second.md": "# 0002: Second\n",
    "service/__init__.py": "",
    "service/core/__init__.py": "def whole(): ...\n",
    "service/core/plan.py": '"""The plan (README, "First steps"). See `service.core.whole` and results/."""\n',
    "tests/test_plan.py": 'DATA = "../shared/data"\nBAD = "docs/gone.md is only a test\'s own text"\n',
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def found(root: Path) -> list[str]:
    return list(cited_files.findings(root))


def test_what_is_there_may_be_cited(repository: Path) -> None:
    assert found(repository) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("See [the lab](docs/lab.md).", "the link to docs/lab.md leads nowhere"),
        ("See [it](docs/page.md#another-part).", "the link to docs/page.md#another-part leads to no heading"),
        ("See [below](#below).", "the link to #below leads to no heading"),
        ("![drawn](docs/drawing.svg)", "the link to docs/drawing.svg leads nowhere"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(repository: Path, text: str, words: str) -> None:
    (repository / "page.md").write_text(f"# Page\n\n{text}\n")
    assert found(repository) == [f"page.md:3: {words}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Measured (LAB.md, part 2).", "LAB.md is not in the repository"),
        ("See docs/lab.txt for more.", "docs/lab.txt is not in the repository"),
        ("The oracle is `core/plans.py`.", "core/plans.py is not in the repository"),
        ("Images come from ../shared/data.", "../shared is not in the repository"),
        ("As decision 3 says.", "there is no decision 3"),
        ("As decisions 1 and 4 say.", "there is no decision 4"),
        ("See docs/decisions/0009.", "docs/decisions/0009 is not in the repository"),
        ("Asked for in issue 22.", "issue 22 is not in the repository: issues are not"),
        ('It follows from (DESIGN, "The one idea").', "there is no document DESIGN"),
        ('See README, "Last steps".', "README has no section 'Last steps'"),
        ("`service.core.doorbell` does it.", "there is no module service.core.doorbell"),
        ("`core.doorbell` does it.", "there is no module core.doorbell"),
    ],
)
@pytest.mark.parametrize("where", ["document", "docstring", "comment", "message"])
def test_what_is_not_there_is_found(repository: Path, text: str, words: str, where: str) -> None:
    if where == "document":
        name, line, content = "page.md", 3, f"# Page\n\n{text}\n"
    elif where == "docstring":
        name, line, content = "service/new.py", 2, f'"""Something new.\n{text}"""\n'
    elif where == "comment":
        name, line, content = "tests/new.py", 1, f"VALUE = 1  # {text}\n"
    else:
        name, line, content = "service/new.py", 1, f"MESSAGE = {text!r}\n"
    (repository / name).write_text(content)
    assert f"{name}:{line}: {words}" in found(repository)


def test_a_file_beside_the_citing_one_must_be_there_and_yaml_is_read(repository: Path) -> None:
    rules = repository / "docs/rules.yml"
    rules.write_text("# What each means: page.md beside this file.\n")
    assert found(repository) == []
    rules.write_text("# What each means: README.md beside this file; see docs/gone.md.\n")
    assert found(repository) == [
        "docs/rules.yml:1: README.md is not beside this file",
        "docs/rules.yml:1: docs/gone.md is not in the repository",
    ]


def test_a_link_may_be_written_from_its_own_folder(repository: Path) -> None:
    (repository / "docs/other.md").write_text(
        "[Page](page.md), [code](../service/core/plan.py), [up](../README.md#product)\n"
    )
    assert found(repository) == []


def test_commands_exit_1_and_name_what_they_found(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cited_files, "ROOT", repository)
    with pytest.raises(SystemExit) as ended:
        cited_files.main()
    assert ended.value.code == 0
    (repository / "README.md").write_text("See DESIGN.md.\n")
    with pytest.raises(SystemExit) as ended:
        cited_files.main()
    assert ended.value.code == 1
    assert "README.md:1: DESIGN.md is not in the repository" in capsys.readouterr().out

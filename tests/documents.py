"""Commands and answers of documents, so that tests run what a reader would copy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
QUICKSTART = "docs/quickstart.md"
DEPLOYMENT = "docs/how-to/deployment.md"
BACKUP = "docs/how-to/backup.md"
OPERATIONS = "docs/how-to/operations.md"

_BLOCK = re.compile(r"(?:<!-- ([\w ]+?): [^\n]*-->\n)?```(\w+)\n(.*?)```", re.DOTALL)
ANY = "…"  # stands for what differs from run to run, and as a name of a member for all further members


@dataclass(frozen=True)
class Step:
    """Commands of a walk, and what a document shows as their answers, a line each."""

    commands: str
    shown: list[str]


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def block(document: str, mark: str) -> str:
    """The commands below a mark: `<!-- mark: which test runs them -->`."""
    found = [commands for name, kind, commands in _BLOCK.findall(text_of(document)) if (name, kind) == (mark, "sh")]
    assert len(found) == 1, (document, mark)
    return str(found[0])


def walk(document: str) -> list[Step]:
    """From the mark `walk` on: every block of commands up to the next mark, each with the answers shown below it."""
    blocks = _BLOCK.findall(text_of(document))
    names = [name for name, _, _ in blocks]
    first = names.index("walk")
    steps: list[Step] = []
    for name, kind, content in blocks[first:]:
        if name not in ("", "walk"):
            break
        if kind == "sh":
            steps.append(Step(content, []))
        elif kind == "json":
            steps[-1].shown.extend(content.splitlines())
    while steps and not steps[-1].shown:  # commands that are no part of the walk
        steps.pop()
    return steps


def differences(shown: Any, found: Any, path: str = "") -> list[str]:
    """Where a real answer is not what a document shows of it.

    Text with an ellipsis says how the real one begins; a number that is no whole number is only a number; a member
    named "…" stands for any further ones.
    """
    if isinstance(shown, Mapping):
        if not isinstance(found, Mapping):
            return [f"{path}: no object"]
        named = shown.keys() - {ANY}
        extra = set() if ANY in shown else found.keys() - named
        problems = [f"{path}.{name}: not shown" for name in sorted(extra)]
        problems += [f"{path}.{name}: shown, and not there" for name in sorted(named - found.keys())]
        for name in sorted(named & found.keys()):
            problems += differences(shown[name], found[name], f"{path}.{name}")
        return problems
    if isinstance(shown, list):
        if not isinstance(found, list) or len(found) != len(shown):
            return [f"{path}: {found!r} is no list of {len(shown)}"]
        return [each for i, one in enumerate(shown) for each in differences(one, found[i], f"{path}[{i}]")]
    if isinstance(shown, str) and ANY in shown:
        return [] if isinstance(found, str) and found.startswith(shown.partition(ANY)[0]) else [f"{path}: {found!r}"]
    if isinstance(shown, float):
        return [] if isinstance(found, int | float) else [f"{path}: {found!r} is no number"]
    return [] if shown == found and type(shown) is type(found) else [f"{path}: {found!r}, shown is {shown!r}"]

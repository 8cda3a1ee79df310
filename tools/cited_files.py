"""A check that nothing cites what is not in the repository: run by `make check`, exit 1 on any finding.

Looked at is prose: documents, files of settings such as *.yml, comments, docstrings, and strings with blanks in
`service`, `models` and `workers`, which users read. A citation is one of these:

- a link of a document to a file, with or without a heading in it;
- a path that begins with a folder of this repository, or ends like a source file or a document (`core/plan.py`);
- a file that is said to be "beside this file";
- a section of a document: README, "Development";
- a module by its dotted name (`models.bank`, `core.plan`);
- a decision by its number, an issue by its number (there are none here);
- anything under a folder beside the repository.

A path may be written from the root, from the citing file's folder, or as the end of a path (`core/plan.py` for
`service/core/plan.py`); `*` stands for any characters.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (".md", ".toml", ".yml", ".cfg", ".sbatch", ".service", ".txt", ".example", ".mako", ".svg")
PLAIN = ("Makefile", "Dockerfile", "run", ".gitignore", ".dockerignore")
READ_BY_USERS = ("service", "models", "workers")
# Packages of `service` that are called by their last name. Others are named like groups of settings.
SHORT = ("core", "api", "cli", "messaging", "artifacts", "decoding", "evaluation")

_URL = re.compile(r"\w+://\S+")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(
    r"(?<![\w/.~$@{}=<>-])(?:[\w.*-]+/)+[\w.*-]*\w[\w.*@-]*|(?<![\w/.~$@{}=<>*-])(?:[\w*-]+\.py|[A-Z]+\.md)\b"
)
_BESIDE = re.compile(r"(?:\.\./)+shared\b")
_BESIDE_THIS = re.compile(r"`?([\w.-]+\.[a-z]+)`?,? (?:beside|next to) this file")
_DECISION = re.compile(r"\b[Dd]ecisions? ((?:\d{1,4}(?:, | and )?)+)")
_ISSUE = re.compile(r"\b[Ii]ssue #?\d+")
# A document that is named in capitals and followed by a section, or alone in brackets.
_SECTION = re.compile(r"\b([A-Z]{3,})(?:\.md)?, \"([^\"]+)\"")
_NAMED = re.compile(r"\((DESIGN|STYLE|LAB|RECEIPTS)\b")
_MODULE = re.compile(r"(?<![\w./\"'@-])((?:[a-z_]+)(?:\.[A-Za-z_]\w*)+)(?![\w/]|\()")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Prose:
    """A piece of text that people read, and where it begins."""

    line: int
    text: str


class Repository:
    """The files that git knows, and what they hold."""

    def __init__(self, root: Path) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.root = root
        self.files = {name for name in listed.stdout.split("\0") if name and (root / name).exists()}
        self.folders = {str(parent) for name in self.files for parent in PurePosixPath(name).parents} - {"."}
        self.top = {folder for folder in self.folders if "/" not in folder}
        self.made = {line.strip("/") for line in (root / ".gitignore").read_text().splitlines()}  # what commands write
        self._all = sorted(self.files | self.folders)

    def has(self, cited: str, file: str) -> bool:
        """Whether a path that is cited in a file is in the repository."""
        cited = cited.rstrip("/").removeprefix("./")
        beside = _normal(f"{PurePosixPath(file).parent}/{cited}")
        if {cited, beside} & (self.files | self.folders | self.made):
            return True
        record = re.fullmatch(r"docs/decisions/(\d{4})", cited)
        if record:
            return int(record.group(1)) in self.decisions
        patterns = (cited, f"*/{cited}")
        return any(fnmatch.fnmatchcase(name, pattern) for name in self._all for pattern in patterns)

    def has_module(self, dotted: str) -> bool:
        """Whether a dotted name is a module, or is defined in one; True for what is none of ours."""
        first, *rest = dotted.split(".")
        if first in SHORT:
            return self.has_module(f"service.{dotted}") if f"service/{first}" in self.folders else not rest
        if f"{first}/__init__.py" not in self.files:
            return True
        path = first
        for place, name in enumerate(rest):
            if f"{path}/{name}/__init__.py" in self.files:
                path = f"{path}/{name}"
                continue
            if f"{path}/{name}.py" in self.files:
                return True  # what is defined in it is not looked for
            return place > 0 and re.search(rf"\b{name}\b", (self.root / path / "__init__.py").read_text()) is not None
        return True

    @functools.cache  # noqa: B019  (one repository a run)
    def headings(self, name: str) -> frozenset[str]:
        """Of a document: its headings, and the anchors that are made of them."""
        text = _FENCE.sub("", (self.root / name).read_text())
        words = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        return frozenset([*words, *map(_anchor, words)])

    @functools.cached_property
    def decisions(self) -> set[int]:
        """The numbers of the records."""
        found = (re.fullmatch(r"docs/decisions/(\d{4})-.+\.md", name) for name in self.files)
        return {int(match.group(1)) for match in found if match}


def findings(root: Path) -> Iterator[str]:
    """Every citation of what is not there, as `file:line: words`."""
    repository = Repository(root)
    for name in sorted(repository.files):
        for prose in _prose(root, name):
            for offset, line in enumerate(prose.text.splitlines()):
                for words in dict.fromkeys(_bad(line, name, repository)):
                    yield f"{name}:{prose.line + offset}: {words}"


def _prose(root: Path, name: str) -> Iterator[Prose]:
    path = root / name
    if name.endswith(".py"):
        yield from _prose_of_python(path.read_text(), strings=name.startswith(READ_BY_USERS))
    elif path.suffix in DOCUMENTS or path.name in PLAIN:
        yield Prose(1, path.read_text())


def _prose_of_python(source: str, *, strings: bool) -> Iterator[Prose]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Prose(token.start[0], token.string)
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in docstrings or (strings and " " in node.value):
            yield Prose(node.lineno, node.value)


def _bad(line: str, file: str, repository: Repository) -> Iterator[str]:
    line = _URL.sub("", line)
    yield from (f"{words} is not in the repository" for words in _BESIDE.findall(line))
    for beside in _BESIDE_THIS.findall(line):
        if _normal(f"{PurePosixPath(file).parent}/{beside}") not in repository.files:
            yield f"{beside} is not beside this file"
    yield from (f"{words} is not in the repository: issues are not" for words in _ISSUE.findall(line))
    yield from (f"there is no document {words}" for words in _NAMED.findall(line))
    for document, section in _SECTION.findall(line):
        if f"{document}.md" not in repository.files:
            yield f"there is no document {document}"
        elif section not in repository.headings(f"{document}.md"):
            yield f"{document} has no section {section!r}"
    for numbers in _DECISION.findall(line):
        missing = {int(number) for number in re.findall(r"\d+", numbers)} - repository.decisions
        yield from (f"there is no decision {number}" for number in sorted(missing))
    if file.endswith(".md"):
        yield from filter(None, (_bad_link(target, file, repository) for target in _LINK.findall(line)))
        line = _LINK.sub("", line)
    yield from (f"there is no module {name}" for name in _MODULE.findall(line) if not repository.has_module(name))
    yield from (
        f"{cited} is not in the repository" for cited in _cited(line, repository) if not repository.has(cited, file)
    )


def _cited(line: str, repository: Repository) -> Iterator[str]:
    """What looks like a path of this repository: by its first folder, or by its ending."""
    for match in _PATH.finditer(line):
        cited = match.group().rstrip(".-")
        if cited.partition("/")[0] in repository.top or cited.endswith((".py", ".md")):
            yield cited


def _bad_link(target: str, file: str, repository: Repository) -> str | None:
    path, _, anchor = target.partition("#")
    name = _normal(f"{PurePosixPath(file).parent}/{path}") if path else file
    if name not in repository.files | repository.folders:
        return f"the link to {target} leads nowhere"
    if anchor and name.endswith(".md") and anchor not in repository.headings(name):
        return f"the link to {target} leads to no heading"
    return None


def _normal(path: str) -> str:
    """Without `.` and `..`; what leads out of the repository stays unknown to it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _anchor(heading: str) -> str:
    """As Markdown renderers make them."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text))


def main() -> None:
    """Print the findings; exit 1 if there are any."""
    found = list(findings(ROOT))
    print("\n".join(found or ["Every file, section and decision that is cited is there."]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

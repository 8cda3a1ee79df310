"""Decision records: one template, and the list of them that is generated.

A record is a file NNNN-words.md in docs/decisions: a title with the same number, a status and a date, and three
sections. It may have further sections between them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("docs/decisions")
SECTIONS = ("Context", "Decision", "Consequences")
STATUSES = re.compile(r"proposed|accepted|superseded by decision \d+|accepted, amended by decisions? [\d, and]+")
_FILE = re.compile(r"(\d{4})-[a-z0-9-]+\.md")
_HEAD = re.compile(r"# (\d{4}): (\S.*)\n\n- Status: (.+)\n- Date: (\d{4}-\d{2}-\d{2})\n\n")


@dataclass(frozen=True)
class Decision:
    """A record, as the list shows it."""

    number: int
    title: str
    status: str
    date: str
    file: str


class NotTheTemplate(ValueError):
    """A record that lacks a part of the template; the message names the file and the part."""


def read(path: Path) -> Decision:
    """One record. Raises NotTheTemplate."""
    name, text = _FILE.fullmatch(path.name), path.read_text()
    if name is None:
        raise NotTheTemplate(f"{path}: the name is not NNNN-words.md")
    head = _HEAD.match(text)
    if head is None:
        raise NotTheTemplate(
            f'{path}: it does not begin with "# NNNN: Title", "- Status: ..." and "- Date: YYYY-MM-DD"'
        )
    number, title, status, date = head.groups()
    if number != name.group(1):
        raise NotTheTemplate(f"{path}: its title has the number {number}")
    if not STATUSES.fullmatch(status):
        raise NotTheTemplate(f"{path}: {status!r} is no status")
    found = [section for section in re.findall(r"^## (.+)$", text, re.MULTILINE) if section in SECTIONS]
    if tuple(found) != SECTIONS:
        raise NotTheTemplate(f"{path}: it needs the sections {', '.join(SECTIONS)}, once each and in this order")
    return Decision(int(number), title, status, date, path.name)


def all_of(root: Path) -> list[Decision]:
    """Every record, by number. Raises NotTheTemplate, also for a number that is given twice."""
    records = [read(path) for path in sorted((root / FOLDER).glob("*.md")) if path.name != "index.md"]
    for one, next_one in itertools.pairwise(records):
        if one.number == next_one.number:
            raise NotTheTemplate(f"{next_one.file}: {one.file} has the same number")
    return records


def _gaps(numbers: Sequence[int]) -> list[str]:
    """Lines that say which numbers have no record, so that no reader looks for it."""
    missing = [str(number) for number in range(1, max(numbers, default=0)) if number not in numbers]
    if not missing:
        return []
    *others, last = missing
    words = f"Numbers {', '.join(others)} and {last} were" if others else f"Number {last} was"
    return [f"{words} not used.", ""]


def page(root: Path) -> str:
    """The list, as Markdown."""
    records = all_of(root)
    rows = [f"| {one.number} | [{one.title}]({one.file}) | {one.status} | {one.date} |" for one in records]
    lines = [
        "# Decisions",
        "",
        "Choices that are hard to take back, each on about one screen: what the situation was, what was decided, and",
        "what follows from it. Code and pages cite them by number.",
        "",
        "| | Decision | Status | Date |",
        "|---|---|---|---|",
        *rows,
        "",
        *_gaps([one.number for one in records]),
        "A new record is a file `NNNN-words.md` in `docs/decisions` of this shape (further sections may be added):",
        "",
        "```markdown",
        "# NNNN: What was decided, as a sentence",
        "",
        "- Status: accepted",
        "- Date: YYYY-MM-DD",
        "",
        *[f"## {section}\n" for section in SECTIONS],
    ]
    return "\n".join(lines).rstrip() + "\n```\n"

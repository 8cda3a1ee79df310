"""Output of commands: words and tables for people, JSON for programs. No text of others is taken for markup.

Labels, names of files and of keys are other people's text: no bracket in them styles, no escape sequence in them moves
a terminal's cursor, no byte that is not UTF-8 ends the command. An id or a path is never cut: a table is as wide as
what it holds.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDEST = 1 << 16  # columns of a table; far beyond what any row needs

console = Console(markup=False, emoji=False, highlight=False)
aside = Console(markup=False, emoji=False, highlight=False, stderr=True)  # what is not the answer itself

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

# Controls, surrogates, separators of lines and paragraphs; and what turns the direction of the text around it.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = {chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def plain(value: str | Path) -> str:
    r"""Text of others as it may stand on a terminal: what would not be seen, or do something there, as `\x1b`.

    Bytes of a file's name that are not UTF-8 are shown as `\xe9`.
    """
    text = os.fsencode(value).decode("utf-8", "backslashreplace") if isinstance(value, Path) else value
    return "".join(_escaped(character) if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _TURNING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def say(words: str, *, style: str | None = None) -> None:
    """One line, never broken and never cut."""
    console.print(Text(words, style=style or ""), soft_wrap=True)


def note(words: str) -> None:
    """A line that is not the answer: on standard error."""
    aside.print(Text(words), soft_wrap=True)


def show(table: Table) -> None:
    """A table as wide as its longest row, also where the terminal is narrower: then the terminal breaks the lines."""
    width = Console(width=WIDEST, markup=False, emoji=False).measure(table).maximum
    wide = Console(width=max(width, 1), markup=False, emoji=False, highlight=False)
    wide.print(table, crop=False)


def print_json(value: Any) -> None:
    """One JSON document. Characters that standard output cannot say are escaped, as JSON does."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def progress_bar(*, apart: bool = False) -> Progress:
    """The one look of our progress bars. `apart`: on standard error, for a person who reads JSON."""
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=aside if apart else console, disable=apart and not aside.is_terminal)

"""`oubli` in this process: as quick as a function, and what it prints and how it ends as in a process of its own."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from service.cli.main import main


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path, stdin: str = "", encoding: str = "utf-8") -> Done:
    """Run it to its end; raises what it raises: then a person would have seen a traceback."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    err.reconfigure(errors="backslashreplace")  # as Python opens it
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["oubli", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    said, complained = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    return Done(code if isinstance(code, int) else int(code is not None), said, complained)


ID = "01993c5e-7d7a-7cc2-9d0e-3f0a3a1b2c3d"
ODD = "cat [tabby] [/] [/b] [red]x[/red] :smile:"
HIDDEN = "\x1b[2J\x07\u202e"


def assert_one_line(done: Done, *words: str, code: int) -> None:
    assert done.code == code, done
    (line,) = done.err.splitlines()
    assert line.startswith("oubli: ")
    for word in words:
        assert word in line, done

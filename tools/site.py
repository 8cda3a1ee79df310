"""Builds the documentation site: `make docs`. Exits 1 if a link is broken, a page is in no menu, or anything is loaded
from another host.

Zensical's strict mode checks links and anchors between pages. It does not look at the menu, and files that are no pages
(pictures, alerts) it copies unseen: `tools.cited_files` checks links to those.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools import reference

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "zensical.toml"
RECORDS = "decisions/"
# What a browser fetches without being asked to; links that a reader may follow are not among it.
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preconnect|preload|icon))[^>]*href=["']?(https?:)?//[^>]*>"""
    r"""|@import[^;]*//[^;]*;|url\(["']?(?:https?:)?//[^)]*\)"""
)


def pages_of(nav: Any) -> Iterator[str]:
    """Every page that a menu names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for entry in nav.values():
            yield from pages_of(entry)
    else:
        for entry in nav:
            yield from pages_of(entry)


def menu_problems(docs: Path, nav: Any) -> list[str]:
    """Pages that no menu names, and names of pages that are not there. Records are in the list of decisions."""
    named = list(pages_of(nav))
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    missing = {page for page in there - {*named} if not page.startswith(RECORDS)}
    problems = [f"{page}: in no menu of {CONFIGURATION.name}" for page in sorted(missing)]
    problems += [f"{page}: named in a menu, and not there" for page in sorted({*named} - there)]
    return problems + [f"{page}: named twice" for page in sorted({page for page in named if named.count(page) > 1})]


def loaded_from_elsewhere(site: Path) -> list[str]:
    """What pages and styles of a built site would fetch from another host."""
    return [
        f"{path.relative_to(site)}: {found.group()[:120]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for found in _LOADED.finditer(path.read_text())
    ]


def main() -> None:
    """Write generated pages, check the menu, build, check what the site loads."""
    for path, text in reference.pages().items():
        (ROOT / path).write_text(text)
    project = tomllib.loads(CONFIGURATION.read_text())["project"]
    problems = menu_problems(ROOT / project["docs_dir"], project["nav"])
    if problems:
        sys.exit("\n".join(problems))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)
    problems = loaded_from_elsewhere(ROOT / project["site_dir"])
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

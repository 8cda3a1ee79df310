"""Documents: generated pages are up to date, decisions keep their template, the site is whole."""

import json
import re
import shutil
from pathlib import Path

import pytest

from service.settings import describe
from tests import documents
from tests.documents import differences
from tools import decisions, http_page, reference, site

RECORD = "# 0001: A title\n\n- Status: accepted\n- Date: 2026-11-29\n\n## Context\n\n## Decision\n\n## Consequences\n"


# -------------------------------------------------------------------------------------------------- generated pages


def test_generated_pages_are_up_to_date() -> None:
    assert reference.stale() == [], "run `python -m tools.reference`"


def test_a_page_that_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path("docs/reference/settings.md")
    changed = {**reference.pages(), name: "another text"}
    monkeypatch.setattr(reference, "pages", lambda: changed)
    monkeypatch.setattr("sys.argv", ["reference", "--check"])
    with pytest.raises(SystemExit) as ended:
        reference.main()
    assert str(name) in str(ended.value.code)


def test_every_setting_command_and_operation_is_in_the_reference() -> None:
    pages = {path.name: text for path, text in reference.pages().items()}
    assert [name for name, _, _ in describe() if f"| `{name}` |" not in pages["settings.md"]] == []
    described = json.loads((documents.ROOT / "openapi.json").read_text())
    operations = [f"### {method.upper()} {path}" for path, each in described["paths"].items() for method in each]
    assert [heading for heading in operations if f"{heading}\n" not in pages["http.md"]] == []
    assert re.findall(r"^## `oubli (\w+)`", pages["cli.md"], re.MULTILINE)[:2] == ["serve", "api"]


def test_an_operation_is_shown_with_scope_parameters_body_and_answers() -> None:
    text = {"type": "string"}
    operation = {
        "tags": ["things"], "summary": "Make a thing", "security": [{"key": ["admin"]}],
        "parameters": [{"name": "q", "in": "query", "schema": text, "description": "a | b"}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
        "responses": {
            "201": {"description": "Successful Response", "content": {"any/type": {"schema": {"$ref": "#/x/Thing"}}}},
            "422": {"description": "No", "content": {"application/problem+json": {}}},
        },
    }  # fmt: skip
    thing = {"properties": {"name": text, "tags": {"type": "array", "items": text}}, "required": ["name"]}
    described = {"info": {"description": "Words."}, "paths": {"/things": {"post": operation}},
                 "components": {"schemas": {"Thing": thing}}}  # fmt: skip
    page = http_page.page(described)
    assert "Make a thing. Scope: `admin`." in page
    assert r"| `q` | query | string, optional | a \| b |" in page
    assert "| `name` | string |  |\n| `tags` | list of string, optional |  |" in page
    assert "- 201: [Thing](#thing)\n- Problems: 422" in page


# -------------------------------------------------------------------------------------------------------- decisions


def test_every_decision_keeps_the_template() -> None:
    records = decisions.all_of(documents.ROOT)
    assert [record.number for record in records][:19] == list(range(1, 20))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("# 0001: A title", "# 1. A title", "does not begin with"),
        ("# 0001", "# 0002", "its title has the number 0002"),
        ("accepted", "decided", "'decided' is no status"),
        ("- Date: 2026-11-29", "- Date: today", "does not begin with"),
        ("## Consequences\n", "", "it needs the sections"),
        ("## Context\n\n## Decision\n", "## Decision\n\n## Context\n", "it needs the sections"),
    ],
)
def test_a_record_that_does_not_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "0001-a-title.md"
    path.write_text(RECORD)
    assert decisions.read(path) == decisions.Decision(1, "A title", "accepted", "2026-11-29", path.name)
    path.write_text(RECORD.replace(old, new))
    with pytest.raises(decisions.NotTheTemplate, match=re.escape(words)):
        decisions.read(path)


def test_a_number_is_given_once(tmp_path: Path) -> None:
    folder = tmp_path / decisions.FOLDER
    folder.mkdir(parents=True)
    for name in ("0001-a.md", "0001-b.md"):
        (folder / name).write_text(RECORD)
    with pytest.raises(decisions.NotTheTemplate, match="has the same number"):
        decisions.all_of(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([1, 2], None), ([1, 3], "Number 2 was not used."), ([2, 5, 6], "Numbers 1, 3 and 4 were not used.")],
)
def test_the_list_of_decisions_says_which_numbers_have_none(
    tmp_path: Path, numbers: list[int], words: str | None
) -> None:
    folder = tmp_path / decisions.FOLDER
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:04}-a-title.md").write_text(RECORD.replace("0001", f"{number:04}"))
    lines = decisions.page(tmp_path).splitlines()
    assert [line for line in lines if line.endswith("not used.")] == ([words] if words else [])


# --------------------------------------------------------------------------------------------------------- the site


def test_a_page_that_no_menu_names_is_found_and_a_name_without_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "decisions").mkdir()
    for name in ("index.md", "lost.md", "decisions/index.md", "decisions/0001-a.md"):
        (tmp_path / name).write_text("# Page\n")
    nav = [{"Home": "index.md"}, {"More": [{"Gone": "gone.md"}, {"Decisions": "decisions/index.md"}, "index.md"]}]
    assert site.menu_problems(tmp_path, nav) == [
        "lost.md: in no menu of zensical.toml",
        "gone.md: named in a menu, and not there",
        "index.md: named twice",
    ]


def test_what_a_page_loads_from_elsewhere_is_found_and_links_are_not(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="https://example.org">x</a> <script src="own.js"></script> <link rel="canonical" href="https://a">'
    )
    assert site.loaded_from_elsewhere(tmp_path) == []
    for bad in (
        '<script defer src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img alt="" src=http://example.org/x.png>',
        "<style>@font-face{src:url(https://example.org/f.woff)}</style>",
    ):
        page.write_text(bad)
        assert len(site.loaded_from_elsewhere(tmp_path)) == 1, bad


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documentation in a folder of its own, which `tools.site` then builds."""
    shutil.copytree(documents.ROOT / "docs", tmp_path / "docs")
    shutil.copy(documents.ROOT / "zensical.toml", tmp_path)
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "CONFIGURATION", tmp_path / "zensical.toml")
    return tmp_path


def test_the_site_is_built_and_a_broken_link_or_anchor_fails_it(copied: Path) -> None:
    site.main()
    assert (copied / "site" / "index.html").exists()
    page = copied / "docs" / "concepts.md"
    whole = page.read_text()
    for target in ("gone.md", "glossary.md#no-such-heading"):
        page.write_text(f"{whole}\n[broken]({target})\n")
        with pytest.raises(SystemExit) as ended:
            site.main()
        assert ended.value.code not in (0, None)


def test_a_page_in_no_menu_fails_the_build(copied: Path) -> None:
    (copied / "docs" / "lost.md").write_text("# Lost\n")
    with pytest.raises(SystemExit, match=r"lost\.md: in no menu"):
        site.main()


# --------------------------------------------------------------------------------------------------- shown answers


def test_shown_answers_are_compared_with_real_ones() -> None:
    shown = {"id": "019…", "state": "a", "n": 1, "score": 0.5, "list": [{"x": "…", "…": "…"}]}
    real = {"id": "0193", "state": "a", "n": 1, "score": 1.0, "list": [{"x": "y", "z": 2}]}
    assert differences(shown, real) == []
    for changed in ({"id": "119"}, {"state": "b"}, {"n": 2}, {"n": True}, {"score": "x"}, {"list": []}, {"more": 1}):
        assert differences(shown, {**real, **changed}) != [], changed
    assert differences(shown, {name: value for name, value in real.items() if name != "n"}) == [
        ".n: shown, and not there"
    ]

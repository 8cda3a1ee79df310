"""One name, one type: no two types of the service have the same name, so a reader need not ask which is meant."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What goes over the wire is called what the registry calls it: a schema is the HTTP shape of the record of its name.
SCHEMAS = "service/api/schemas/"


def types_of(source: str) -> Iterator[str]:
    """Classes, and aliases of types, that a module defines for others; no type variables, nothing private."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name) and is_type(target.id))


def is_type(name: str) -> bool:
    return name[0].isupper() and not name.isupper()


def files() -> list[Path]:
    found = [path for package in ("service", "models", "workers") for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if not path.relative_to(ROOT).as_posix().startswith(SCHEMAS)]


def test_no_two_types_have_one_name() -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for path in files():
        for name in types_of(path.read_text()):
            if not name.startswith("_"):
                named[name].append(path.relative_to(ROOT).as_posix())
    assert len(named) > 150
    assert {name: where for name, where in named.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class Row: ...", ["Row"]),
        ("Result = Answer | ServiceError", ["Result"]),
        ("Progress = Callable[[int, int], None]", ["Progress"]),
        ('Item = TypeVar("Item")\nPARTS = A[B]\nname = a[0]', []),
    ],
)
def test_types_are_seen(source: str, found: list[str]) -> None:
    assert list(types_of(source)) == found

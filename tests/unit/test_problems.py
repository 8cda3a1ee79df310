"""Each kind of problem has a code that programs can rely on, and a line in the documentation."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

import service
from service import errors
from service.api import problems
from service.api.schemas.common import Problem
from service.errors import ServiceError, kinds
from tests.integration.harness import PROBLEM, REPOSITORY, assert_kind, check_error

# What clients rely on: a line may be added, none may be changed or taken away.
PUBLISHED = {
    "client-gone": 400, "malformed": 400, "unauthorized": 401, "forbidden": 403, "no-such-path": 404, "not-found": 404,
    "method-not-allowed": 405, "too-slow": 408, "conflict": 409, "nothing-contributed": 409, "still-running": 409,
    "too-large": 413, "unsupported-media": 415, "invalid": 422, "busy": 429, "too-many-headers": 431,
    "internal-error": 500, "unavailable": 503, "out-of-space": 507,
}  # fmt: skip


def every(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every(below)


def everywhere() -> list[type[ServiceError]]:
    """Of all of the service's modules."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [kind for kind in every() if kind.__module__.startswith("service.")]


def test_what_has_been_published_stays() -> None:
    assert PUBLISHED.items() <= {kind.code: kind.status for kind in kinds()}.items()


def test_each_kind_has_a_code_of_its_own() -> None:
    found = everywhere()
    assert all("code" in vars(kind) for kind in found), [kind for kind in found if "code" not in vars(kind)]
    codes = [kind.code for kind in found]
    assert len({*codes}) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_each_kind_that_is_answered_is_listed_with_its_meaning() -> None:
    assert errors.Misconfigured not in kinds()
    assert {kind for kind in everywhere() if kind.__module__ == errors.__name__} == {*kinds(), errors.Misconfigured}
    for row in problems.table().splitlines()[2:]:
        assert all(cell.strip() for cell in row.strip("|").split("|")), row


def test_the_documentation_lists_them_all() -> None:
    assert problems.table() in (REPOSITORY / "docs" / "reference" / "problems.md").read_text()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Of an application that fails as it is told to."""
    app = FastAPI()
    problems.install(app)

    @app.get("/kind/{code}")
    def fail(code: str) -> None:
        raise next(kind for kind in kinds() if kind.code == code)("These are the words.")

    @app.get("/http/{status}")
    def fail_as_frameworks_do(status: int) -> None:
        raise HTTPException(status, "These are the words.")

    @app.get("/disk")
    def fail_as_disks_do(number: int) -> None:
        raise OSError(number, "strerror")

    @app.get("/bug")
    def fail_by_mistake() -> None:
        raise ZeroDivisionError("the secret of the house")

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def problem(answer: httpx.Response) -> Problem:
    check_error(answer)
    return Problem.model_validate(answer.json())


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_a_kind_says_what_it_is(client: TestClient, kind: type[ServiceError]) -> None:
    answer = client.get(f"/kind/{kind.code}")
    found = problem(answer)
    assert (answer.status_code, found.code, found.title) == (kind.status, kind.code, kind.title)
    assert found.detail == "These are the words."
    assert answer.headers.get("retry-after") == (str(kind.retry_after) if kind.retry_after else None)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "malformed"), (404, "no-such-path"), (405, "method-not-allowed"), (406, "malformed")]
)
def test_what_a_framework_raises_is_of_a_kind(client: TestClient, status: int, code: str) -> None:
    answer = client.get(f"/http/{status}")
    assert (answer.status_code, problem(answer).code) == (status, code)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/nothing", 404, "no-such-path"), ("/http/x", 422, "invalid"), ("/disk?number=28", 507, "out-of-space"),
     ("/disk?number=5", 503, "unavailable"), ("/disk?number=2", 500, "internal-error"),
     ("/bug", 500, "internal-error")],
)  # fmt: skip
def test_so_is_whatever_else_goes_wrong(client: TestClient, path: str, status: int, code: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, problem(answer).code) == (status, code)
    assert "secret" not in answer.text
    wrong_method = client.post(path.replace("/nothing", "/bug"))
    assert (wrong_method.status_code, problem(wrong_method).code) == (405, "method-not-allowed")


def test_of_several_images_each_has_its_own() -> None:
    found = [("image[0]", errors.UnsupportedMedia("no image")), ("image[2]", errors.TooLarge("too large"))]
    body = problems.respond(problems.batch_problems(found, "/predict"))
    assert body.media_type == PROBLEM
    said = Problem.model_validate_json(bytes(body.body))
    assert_kind(said.model_dump(exclude_none=True))
    assert said.code == "unsupported-media"
    assert said.errors is not None
    assert [(one.field, one.code) for one in said.errors] == [
        ("image[0]", "unsupported-media"),
        ("image[2]", "too-large"),
    ]


def test_nothing_is_spelt_by_hand() -> None:
    """A route raises an error; what is a problem is made of it in one place."""
    sources = [path for path in (Path(service.__file__).parent).rglob("*.py") if "Problem(" in path.read_text()]
    makers = [path.name for path in sources if re.search(r"(?<!\w)Problem\(", path.read_text())]
    assert sorted(makers) == ["common.py", "problems.py"]

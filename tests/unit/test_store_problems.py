"""What callers are told while the store is away: 503 and when to come again, nothing of servers and paths."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.api import problems
from service.api.middleware import RequestId
from service.artifacts import StoreRefuses, StoreUnavailable
from service.errors import STORE_AWAY

WORDS = "bucket photos at http://store:9000 does not answer in time."


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestId)

    @app.get("/{kind}")
    def fail(kind: str) -> None:
        raise {
            "refuses": StoreRefuses(WORDS),
            "away": StoreUnavailable(WORDS),
            **{
                name: OSError(getattr(errno, name), "said the system", "/srv/secret")
                for name in errno.errorcode.values()
            },
        }[kind]

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


AWAY_ERRNOS = ["EIO", "EROFS", "EACCES", "ESTALE", "ETIMEDOUT", "EHOSTUNREACH", "ECONNREFUSED", "ENXIO"]


@pytest.mark.parametrize("kind", ["refuses", "away", *AWAY_ERRNOS])
def test_a_store_that_is_away_is_503_and_says_when_to_come_again(client: TestClient, kind: str) -> None:
    answer = client.get(f"/{kind}")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert STORE_AWAY in answer.json()["detail"]
    for inner in ("photos", "9000", "srv", "said the system"):
        assert inner not in answer.text


@pytest.mark.parametrize(("kind", "status"), [("ENOSPC", 507), ("EDQUOT", 507), ("ENOENT", 500), ("EISDIR", 500)])
def test_full_disks_and_our_own_mistakes_are_something_else(client: TestClient, kind: str, status: int) -> None:
    assert client.get(f"/{kind}").status_code == status

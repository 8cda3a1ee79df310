"""One service on the tiny backbone for all tests that do not end processes; each uses owners of its own."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.integration.harness import Picture, Service, cifar_pictures, digit_pictures
from tests.integration.redis_server import RedisServer, running


@pytest.fixture(scope="session")
def pictures() -> list[Picture]:
    """Sixty different real images: small photographs where there are any, and handwritten digits."""
    photographs = cifar_pictures()
    return [*photographs, *digit_pictures(60 - len(photographs))]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A module's own, to be ended and started again."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service")).start() as running:
        yield running


@pytest.fixture
def owner(service: Service) -> Iterator[str]:
    """Somebody whom no other test knows, forgotten with this one: a service holds few copies of one image."""
    name = f"person-{uuid4().hex}"
    yield name
    service.client.delete(f"/owners/{name}")

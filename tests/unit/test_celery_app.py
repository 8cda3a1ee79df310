"""Which transport a broker's URL gets, and that TLS is more than encryption."""

from __future__ import annotations

import inspect
import ssl
from pathlib import Path
from typing import Any

import pytest
from kombu.transport.redis import Channel
from redis.connection import Connection, SSLConnection

from service.messaging.celery_app import make_celery
from service.settings import Settings


def connected(url: str, tmp_path: Path) -> dict[str, Any]:
    """What a connection to that broker is made with; by our transport, which outlives a Redis that hangs."""
    with make_celery(Settings(data_dir=tmp_path, broker_url=url)).connection() as connection:
        transport = connection.get_transport_cls()
        assert (transport.__module__, transport.__name__) == ("service.messaging.redis_transport", "RedisTransport")
        channel = Channel.__new__(Channel)
        channel.connection = transport(connection)
        found: dict[str, Any] = channel._connparams()
        return found


def test_without_tls_the_broker_is_spoken_to_plainly(tmp_path: Path) -> None:
    assert connected("redis://:secret@127.0.0.1:6379/0", tmp_path)["connection_class"] is Connection


@pytest.mark.parametrize("query", ["", "?ssl_ca_certs=/etc/oubli/ca.pem"])
def test_over_tls_the_broker_s_certificate_is_checked(tmp_path: Path, query: str) -> None:
    found = connected(f"rediss://:secret@127.0.0.1:6380/0{query}", tmp_path)
    assert found["connection_class"] is SSLConnection
    defaults = {name: each.default for name, each in inspect.signature(SSLConnection.__init__).parameters.items()}
    used = {**defaults, **found}
    assert used["ssl_cert_reqs"] in ("required", ssl.CERT_REQUIRED)
    assert used["ssl_check_hostname"] is True
    assert used["ssl_ca_certs"] == (query.partition("=")[2] or None)


def test_who_wants_no_check_must_say_so(tmp_path: Path) -> None:
    found = connected("rediss://:secret@127.0.0.1:6380/0?ssl_cert_reqs=none", tmp_path)
    assert found["ssl_cert_reqs"] == ssl.CERT_NONE

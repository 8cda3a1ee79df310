"""What a store URL may name, and settings of S3 that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.artifacts import open_store
from service.artifacts.opening import Bucket, parse_store_url
from service.errors import Misconfigured
from service.settings import S3Settings


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://photos", Bucket("photos", "")),
        ("s3://photos/", Bucket("photos", "")),
        ("s3://my.photos-1/a/b_c", Bucket("my.photos-1", "a/b_c/")),
        ("/srv/oubli", Path("/srv/oubli")),
        ("file:///srv/oubli%20store", Path("/srv/oubli store")),
        ("file://localhost/srv/oubli", Path("/srv/oubli")),
        ("objects", Path("objects").absolute()),
    ],
)
def test_a_store_url_names_a_bucket_or_a_folder(url: str, found: Bucket | Path) -> None:
    assert parse_store_url(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://A-Bucket",
        "s3://b",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/ä",
        "s3://bucket/a?secret=x",
        "s3://bucket#secret",
        "s3://key:secret@bucket/a",
        "gs://bucket",
        "file://elsewhere/srv",
        "file:relative",
    ],
)
def test_any_other_store_url_is_refused_in_words(url: str) -> None:
    with pytest.raises(Misconfigured, match="store_url") as caught:
        parse_store_url(url)
    assert "secret=x" not in str(caught.value)
    assert "key:secret" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_said_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Misconfigured, match="cannot be used"):
        open_store(str(tmp_path / "file" / "store"), folder=tmp_path, s3=S3Settings())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"access_key_id": "key"}, "together"),
        ({"secret_access_key": "secret"}, "together"),
        ({"endpoint_url": "localhost:9000"}, "endpoint_url"),
        ({"endpoint_url": "ftp://localhost"}, "endpoint_url"),
        ({"endpoint_url": "http://key:hidden@localhost"}, "keys"),
        ({"attempts": 10, "read_seconds": 30.0}, "60 s"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        S3Settings(**given)


def test_a_bucket_is_in_the_path_of_a_server_of_ones_own_and_in_amazons_host() -> None:
    assert S3Settings().addressing_style == "virtual"
    assert S3Settings(endpoint_url="http://localhost:9000").addressing_style == "path"
    assert S3Settings(endpoint_url="http://localhost:9000", addressing="virtual").addressing_style == "virtual"

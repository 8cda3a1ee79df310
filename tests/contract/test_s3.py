"""What only a bucket can get wrong: versions, uploads in parts, keys, and a server that refuses, hangs or goes away."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.artifacts import ObjectMissing, Store, StoreRefuses, StoreUnavailable, open_store
from service.artifacts import s3 as s3_module
from service.errors import Misconfigured, Unavailable
from tests.servers import S3Server
from tests.stores import PLAIN, VERSIONED, Cut, FaultyProxy, Hang, LoseAnswer, Place, Refusal, Request, unanswering

NAME = "samples/0198f2aa-7b1c.safetensors"
QUICK = {"connect_seconds": 0.5, "read_seconds": 0.5, "attempts": 1}
HOUR = timedelta(hours=1)

both = pytest.mark.parametrize("bucket", [PLAIN, VERSIONED])
ACTS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put(NAME, b"new"),
    "get": lambda store: store.get(NAME),
    "delete": lambda store: store.delete(NAME),
    "names": lambda store: list(store.names("samples")),
    "sweep": lambda store: store.sweep(HOUR),
    "check": lambda store: store.check(),
}
each_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


@pytest.fixture
def bucket() -> str:
    return VERSIONED


@pytest.fixture
def place(s3_server: S3Server, bucket: str) -> Place:
    return Place(s3_server, bucket)


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def proxy(place: Place) -> Iterator[FaultyProxy]:
    with FaultyProxy(place.server.url) as proxy:
        yield proxy


@pytest.fixture
def behind(place: Place, proxy: FaultyProxy) -> Store:
    """The store, by way of the proxy."""
    return place.open(endpoint_url=proxy.url, **QUICK)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a part: the least that S3 allows."""
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    return 5 << 20


# --------------------------------------------------------------------------------------------------- what is left


@both
def test_deleting_destroys_every_version_and_every_marker(place: Place, store: Store) -> None:
    for round in range(3):
        store.put(NAME, bytes([round]))
    place.client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{NAME}")  # another client's: leaves a marker
    store.put(NAME, b"again")
    assert len(place.versions()) == (5 if place.bucket == VERSIONED else 1)
    store.delete(NAME)
    assert place.versions() == []


def test_deleting_destroys_what_lies_under_a_marker(place: Place, store: Store) -> None:
    store.put(NAME, b"data")
    place.client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{NAME}")
    with pytest.raises(ObjectMissing):
        store.get(NAME)
    store.delete(NAME)
    assert place.versions() == []


def test_deleting_spares_longer_names(place: Place, store: Store) -> None:
    for name in ("samples/a", "samples/a-b", "samples/a.bin", "samples/ab"):
        store.put(name, b"data")
    store.delete("samples/a")
    assert sorted({key for key, _ in place.versions()}) == ["samples/a-b", "samples/a.bin", "samples/ab"]


def test_deleting_goes_on_where_versions_fill_several_pages(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round in range(7):
        store.put(NAME, bytes([round]))
    store.put(f"{NAME}x", b"a longer name")
    monkeypatch.setattr(s3_module, "LISTED", 2)
    store.delete(NAME)
    assert [key for key, _ in place.versions()] == [f"{NAME}x"]


def test_a_server_that_only_says_it_has_destroyed_is_not_believed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, b"data")
    call = store._call  # type: ignore[attr-defined]
    lies = {"delete_objects": lambda **arguments: {}}
    monkeypatch.setattr(
        store, "_call", lambda operation, **given: lies.get(operation, partial(call, operation))(**given)
    )
    with pytest.raises(StoreUnavailable, match="does not destroy"):
        store.delete(NAME)


@pytest.mark.parametrize("statuses", [["Enabled"], ["Enabled", "Suspended"]], ids=["enabled", "suspended"])
def test_a_bucket_that_is_made_to_keep_versions_meanwhile_keeps_no_byte_of_ours(
    s3_server: S3Server, statuses: list[str]
) -> None:
    place = Place(s3_server, f"made-versioned-{len(statuses)}")
    place.client.create_bucket(Bucket=place.bucket)
    store = place.open()
    store.put(NAME, b"before")
    for status in statuses:
        place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": status})
        store.put(NAME, b"after")
    assert len(place.versions()) == 2
    store.delete(NAME)
    listed = place.client.list_object_versions(Bucket=place.bucket, Prefix=place.prefix)
    assert listed.get("Versions", []) == []
    if statuses[-1] == "Enabled":  # this server cannot destroy a marker while versioning is suspended
        assert listed.get("DeleteMarkers", []) == []
    store.delete(NAME)


def test_names_fill_several_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"samples/{index:02}" for index in range(9)]
    for name in names:
        store.put(name, b"data")
    call = store._call  # type: ignore[attr-defined]
    monkeypatch.setattr(store, "_call", lambda operation, **given: call(operation, **given, MaxKeys=4))
    assert sorted(store.names("samples")) == names


def test_two_prefixes_of_a_bucket_know_nothing_of_each_other(s3_server: S3Server) -> None:
    one, other = Place(s3_server, PLAIN), Place(s3_server, PLAIN)
    one.open().put(NAME, b"one")
    store = other.open()
    assert list(store.names("samples")) == []
    store.delete(NAME)
    assert one.open().get(NAME) == b"one"


# ------------------------------------------------------------------------------------------------------- parts


@both
def test_a_large_object_goes_in_parts_and_comes_whole(place: Place, store: Store, small_parts: int) -> None:
    data = bytes(range(256)) * (2 * small_parts // 256) + b"the rest"
    store.put(NAME, data)
    assert store.get(NAME) == data
    assert place.uploads() == []
    store.delete(NAME)
    assert place.versions() == []


def test_an_upload_in_parts_that_fails_is_aborted(
    place: Place, behind: Store, proxy: FaultyProxy, small_parts: int
) -> None:
    behind.put(NAME, b"before")
    second = lambda request: Refusal(503) if "partNumber=2" in request.path else None  # noqa: E731
    with proxy.faulty(second), pytest.raises(StoreUnavailable):
        behind.put(NAME, bytes(2 * small_parts))
    assert place.uploads() == []
    assert behind.get(NAME) == b"before"


def test_what_a_killed_upload_leaves_is_swept_once_it_is_old(
    place: Place, behind: Store, proxy: FaultyProxy, small_parts: int
) -> None:
    def dies(request: Request) -> Refusal | None:
        return Refusal(503) if "partNumber=2" in request.path or request.method == "DELETE" else None

    with proxy.faulty(dies), pytest.raises(StoreUnavailable):
        behind.put(NAME, bytes(2 * small_parts))
    assert place.uploads() == [NAME]
    assert list(behind.names("samples")) == []
    assert behind.sweep(HOUR) == 0  # its writer may be alive
    assert place.uploads() == [NAME]
    assert behind.sweep(timedelta(seconds=-5)) == 1
    assert place.uploads() == []
    assert behind.sweep(timedelta(seconds=-5)) == 0


def test_a_sweep_leaves_uploads_of_others_alone(place: Place, store: Store, s3_server: S3Server) -> None:
    other = Place(s3_server, place.bucket)
    other.client.create_multipart_upload(Bucket=other.bucket, Key=f"{other.prefix}/{NAME}")
    assert store.sweep(timedelta(seconds=-5)) == 0
    assert other.uploads() == [NAME]


# ------------------------------------------------------------------------------------------------------ opening


def refused(place: Place, error: type[Exception] = Misconfigured, **given: Any) -> str:
    """What is said of it."""
    with pytest.raises(error) as caught:
        place.open(**{**QUICK, **given})
    words = str(caught.value)
    assert "secret" not in words
    return words


def test_a_wrong_secret_is_said_at_start(place: Place) -> None:
    words = refused(place, secret_access_key=SecretStr("a-wrong-secret"))
    assert place.bucket in words
    assert place.server.url in words
    assert "keys" in words


def test_unknown_keys_are_said_at_start(place: Place) -> None:
    assert "keys" in refused(place, access_key_id="nobody", secret_access_key=SecretStr("a-wrong-secret"))


def test_a_missing_bucket_is_said_at_start(s3_server: S3Server) -> None:
    words = refused(Place(s3_server, "no-such-bucket"))
    assert "no-such-bucket" in words
    assert s3_server.url in words


def test_keys_that_may_only_look_are_said_at_start(place: Place) -> None:
    key, secret = place.server.reader
    assert "right" in refused(place, access_key_id=key, secret_access_key=SecretStr(secret))
    store = open_store(
        place.url,
        folder=Path(),
        s3=place.settings(access_key_id=key, secret_access_key=SecretStr(secret)),
        read_only=True,
    )
    assert list(store.names("samples")) == []  # an auditor needs no more


def test_no_keys_at_all_are_said_at_start(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    words = refused(place, access_key_id=None, secret_access_key=None)
    assert "no keys" in words


def test_keys_of_the_environment_are_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = place.server.keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    place.open(access_key_id=None, secret_access_key=None).put(NAME, b"data")


def test_versions_that_cannot_be_listed_are_said_at_start(place: Place, proxy: FaultyProxy) -> None:
    """Nothing could ever be destroyed there."""
    listing = lambda request: Refusal(403, "AccessDenied") if "versions" in request.path else None  # noqa: E731
    with proxy.faulty(listing):
        words = refused(place, endpoint_url=proxy.url)
    assert "s3:ListBucketVersions" in words


def test_an_endpoint_that_is_down_is_no_misconfiguration(place: Place) -> None:
    with unanswering() as url:
        pass
    assert url in refused(place, Unavailable, endpoint_url=url)


def test_an_endpoint_that_never_answers_is_given_up_in_bounded_time(place: Place) -> None:
    limits = {"connect_seconds": 0.5, "read_seconds": 0.7, "attempts": 2}
    with unanswering() as url:
        started = time.monotonic()
        words = refused(place, Unavailable, endpoint_url=url, **limits)
        took = time.monotonic() - started
    assert "does not answer in time" in words
    assert 1.4 <= took < place.settings(**limits).longest_seconds + 2


# ------------------------------------------------------------------------------------------------- while it runs


def test_what_opening_has_tried_is_destroyed(place: Place, store: Store) -> None:
    assert place.versions() == []


@each_act
def test_a_server_that_hangs_is_given_up_in_bounded_time(
    behind: Store, proxy: FaultyProxy, act: Callable[[Store], object]
) -> None:
    with proxy.hanging():
        started = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            act(behind)
        assert time.monotonic() - started < 5
    assert "does not answer in time" in caught.value.strerror
    assert isinstance(caught.value, OSError)


@each_act
def test_a_server_that_refuses_says_so(behind: Store, proxy: FaultyProxy, act: Callable[[Store], object]) -> None:
    with proxy.refusing(503, "SlowDown"), pytest.raises(StoreUnavailable, match="SlowDown") as caught:
        act(behind)
    assert not isinstance(caught.value, StoreRefuses)


@each_act
def test_rights_that_are_taken_away_are_said(behind: Store, proxy: FaultyProxy, act: Callable[[Store], object]) -> None:
    with proxy.refusing(403, "AccessDenied"), pytest.raises(StoreRefuses, match="AccessDenied"):
        act(behind)


def test_writes_that_are_refused_change_nothing(place: Place, behind: Store, proxy: FaultyProxy) -> None:
    behind.put(NAME, b"before")
    before = place.versions()
    with proxy.refusing_writes():
        for act in ("put", "delete"):
            with pytest.raises(StoreUnavailable):
                ACTS[act](behind)
        assert behind.get(NAME) == b"before"
    assert place.versions() == before
    behind.put(NAME, b"after")
    assert behind.get(NAME) == b"after"


@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_a_full_server_is_a_full_disk(behind: Store, proxy: FaultyProxy, status: int, code: str) -> None:
    with proxy.refusing_writes(status, code), pytest.raises(OSError) as caught:
        behind.put(NAME, b"data")
    assert caught.value.errno == errno.ENOSPC


def test_a_body_that_breaks_off_is_no_object(behind: Store, proxy: FaultyProxy) -> None:
    behind.put(NAME, bytes(100_000))
    with proxy.faulty(lambda request: Cut()), pytest.raises(StoreUnavailable):
        behind.get(NAME)
    assert behind.get(NAME) == bytes(100_000)


def test_a_body_that_is_changed_on_its_way_is_no_object(place: Place, store: Store) -> None:
    """Or on the server: nothing is got but what was put."""
    store.put(NAME, b"data")
    key = f"{place.prefix}/{NAME}"
    with pytest.raises(Exception, match=r"(?i)checksum|digest|mismatch"):
        place.client.put_object(Bucket=place.bucket, Key=key, Body=b"changed", ChecksumCRC32="AAAAAA==")
    assert store.get(NAME) == b"data"


def test_an_answer_that_is_lost_is_asked_for_again(place: Place, proxy: FaultyProxy) -> None:
    store = place.open(endpoint_url=proxy.url, **{**QUICK, "attempts": 2})
    left = [LoseAnswer()]
    with proxy.faulty(lambda request: left.pop() if left and request.writes else None):
        store.put(NAME, b"data")
    assert store.get(NAME) == b"data"
    assert len(proxy.seen) > 2
    left.append(LoseAnswer())
    with proxy.faulty(lambda request: left.pop() if left and request.writes else None):
        store.delete(NAME)
    assert place.versions() == []


def test_one_hanging_request_is_tried_again(place: Place, proxy: FaultyProxy) -> None:
    store = place.open(endpoint_url=proxy.url, **{**QUICK, "attempts": 2})
    left = [Hang()]
    with proxy.faulty(lambda request: left.pop() if left else None):
        store.put(NAME, b"data")
    assert place.open().get(NAME) == b"data"


def test_a_bucket_that_is_gone_is_no_missing_object(s3_server: S3Server) -> None:
    place = Place(s3_server, "soon-gone")
    place.client.create_bucket(Bucket=place.bucket)
    store = place.open()
    place.client.delete_bucket(Bucket=place.bucket)
    with pytest.raises(StoreRefuses, match="soon-gone"):
        store.get(NAME)

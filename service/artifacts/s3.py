"""Objects in a bucket of an S3-compatible server (Amazon's, SeaweedFS, MinIO, Ceph, ...), through botocore.

A request stores an object whole or not at all, and an answer means that it is durable; checksums travel along both
ways. Objects above `PART` bytes go in parts, which become an object in the last request only. What a killed process
leaves of them, `sweep` aborts.

Deleting destroys every version and every delete marker. A plain bucket costs one request an object; a versioned one
answers the first with a marker, and then its versions are listed and destroyed, however often it is switched.

No request waits longer than `S3Settings.longest_seconds`. The one client is shared by all threads, as botocore allows.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)

from service.artifacts.store import ObjectMissing, StoreRefuses, StoreUnavailable, check_name, check_prefix

if TYPE_CHECKING:
    from service.settings import S3Settings

PART = 16 << 20  # bytes; above Amazon's least size of a part (5 MiB)
CONNECTIONS = 32  # kept open and shared; more threads than that wait for one
AT_ONCE = 8  # puts of one `put_many`
LISTED = 1000  # versions listed and destroyed in one request: Amazon's limit

_MISSING = ("NoSuchKey", "NoSuchVersion", "NoSuchUpload")
_FULL = ("XMinioStorageFull", "XAmzStorageFull", "QuotaExceeded")  # MinIO, Ceph
_NO_KEYS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


def connect(settings: S3Settings) -> Any:
    """A client that gives up in bounded time. Raises StoreRefuses for keys that cannot even be found."""
    secret = settings.secret_access_key
    config = Config(
        connect_timeout=settings.connect_seconds,
        read_timeout=settings.read_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        s3={"addressing_style": settings.addressing_style},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_supported",
        response_checksum_validation="when_supported",
    )
    session = botocore.session.get_session()
    try:
        return session.create_client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region or session.get_config_variable("region") or "us-east-1",
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret is not None else None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise StoreRefuses(f"{type(error).__name__} while reading the settings of S3.") from None


class S3Store:
    """A `Store` in a bucket, below a prefix (`""`, or ends with a slash)."""

    def __init__(self, client: Any, *, bucket: str, prefix: str, endpoint: str | None) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._words = f"bucket {bucket} at {endpoint or 'Amazon S3'}"  # an endpoint holds no keys (S3Settings)

    def check(self) -> None:
        """List one object."""
        self._call("list_objects_v2", Prefix=self._prefix, MaxKeys=1)

    def put(self, name: str, data: bytes) -> None:
        """One request; several for a large object, of which the last makes it."""
        key, body = self._key(name), bytes(data)
        if len(body) <= PART:
            self._call("put_object", Key=key, Body=body)
        else:
            self._put_in_parts(key, body)

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Several requests at once. When it raises, all have ended: a caller that cleans up meets no later write."""
        if len(items) < 2:
            for name, data in items:
                self.put(name, data)
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="put") as pool:
            futures = [pool.submit(self.put, name, data) for name, data in items]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def get(self, name: str) -> bytes:
        """Raises ObjectMissing, also where the newest version is a delete marker."""
        key = self._key(name)
        try:
            answer = self._call("get_object", Key=key)
            return bytes(answer["Body"].read())
        except _Missing:
            raise ObjectMissing(name) from None
        except (BotoCoreError, OSError) as error:  # in the middle of its bytes
            raise self._failure(error) from None

    def delete(self, name: str) -> None:
        """All versions of it. Raises StoreRefuses where a bucket has versions and does not let us list or destroy."""
        key = self._key(name)
        try:
            answer = self._call("delete_object", Key=key)
        except _Missing:  # a server that is not asked for idempotence
            return
        if answer.get("DeleteMarker") or answer.get("VersionId"):
            self._destroy_versions(key)

    def names(self, prefix: str) -> Iterator[str]:
        """Page by page."""
        arguments: dict[str, Any] = {"Prefix": f"{self._prefix}{check_prefix(prefix)}/"}
        while True:
            page = self._call("list_objects_v2", **arguments)
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(self._prefix)
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def sweep(self, older_than: timedelta) -> int:
        """Abort uploads in parts that were begun before that."""
        limit = datetime.now(UTC) - older_than
        old = [item for item in self._uploads() if item["Initiated"] < limit]
        for item in old:
            self._abort(item["Key"], item["UploadId"])
        return len(old)

    # ------------------------------------------------------------------------------------------------ versions

    def _destroy_versions(self, key: str) -> None:
        """Destroy all versions, until none is listed: that the server says so is not enough.

        Only a marker may stay, where a server cannot destroy it (SeaweedFS, while versioning is suspended): it holds
        no bytes, just the name.
        """
        before: list[dict[str, str]] = []
        while True:
            versions, markers = self._versions(key)
            if not versions and (not markers or markers == before):
                return
            if versions and versions + markers == before:
                raise StoreUnavailable(f"{self._words} does not destroy the versions that it keeps.")
            before = versions + markers
            self._destroy(before)

    def _versions(self, key: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """(versions, delete markers), the first so many. Of all names that begin like this one it comes first."""
        try:
            page = self._call("list_object_versions", Prefix=key, MaxKeys=LISTED)
        except StoreRefuses as refusal:
            raise StoreRefuses(
                f"{self._words} keeps versions and does not let us list them, so they cannot be destroyed. "
                f"Allow s3:ListBucketVersions and s3:DeleteObjectVersion ({refusal.strerror})"
            ) from None
        versions, markers = (
            [{"Key": key, "VersionId": item["VersionId"]} for item in page.get(kind, ()) if item["Key"] == key]
            for kind in ("Versions", "DeleteMarkers")
        )
        return versions, markers

    def _destroy(self, versions: list[dict[str, str]]) -> None:
        answer = self._call("delete_objects", Delete={"Objects": versions, "Quiet": True})
        for error in answer.get("Errors", ()):
            if error.get("Code") not in _MISSING:
                raise _refusal_or_failure(error.get("Code", ""), 0, self._words)

    # --------------------------------------------------------------------------------------------------- parts

    def _put_in_parts(self, key: str, body: bytes) -> None:
        """Aborted if anything goes wrong; if that cannot be said either, the sweep will."""
        upload = self._call("create_multipart_upload", Key=key, ChecksumAlgorithm="CRC32")["UploadId"]
        named = {"Key": key, "UploadId": upload}
        try:
            parts = []
            for number, start in enumerate(range(0, len(body), PART), start=1):
                part = body[start : start + PART]
                answer = self._call("upload_part", **named, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32")
                checksum = {name: answer[name] for name in ("ChecksumCRC32",) if name in answer}
                parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksum})
            self._call("complete_multipart_upload", **named, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(OSError):
                self._abort(key, upload)
            raise

    def _uploads(self) -> Iterator[dict[str, Any]]:
        arguments: dict[str, Any] = {"Prefix": self._prefix}
        while True:
            page = self._call("list_multipart_uploads", **arguments)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            arguments["KeyMarker"] = page["NextKeyMarker"]
            arguments["UploadIdMarker"] = page["NextUploadIdMarker"]

    def _abort(self, key: str, upload: str) -> None:
        with suppress(_Missing):  # another process has aborted it, or it was finished
            self._call("abort_multipart_upload", Key=key, UploadId=upload)

    # ------------------------------------------------------------------------------------------------ requests

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One request. Raises _Missing, StoreUnavailable, or OSError for a full disk of the server's."""
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **arguments)
            return answer
        except (BotoCoreError, ClientError, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return _refusal_or_failure(code, status, self._words)
        if isinstance(error, StoreUnavailable):
            return error
        if isinstance(error, _NO_KEYS):
            return StoreRefuses(f"there are no keys for {self._words} in the settings or the environment.")
        if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            return StoreUnavailable(f"{self._words} does not answer in time.")
        if isinstance(error, EndpointConnectionError):
            return StoreUnavailable(f"{self._words} cannot be reached.")
        if isinstance(error, HTTPClientError | OSError):
            return StoreUnavailable(f"the connection to {self._words} broke.")
        return StoreUnavailable(f"{self._words} gave an answer that cannot be used ({type(error).__name__}).")


class _Missing(Exception):
    """There is nothing of that name."""


def _refusal_or_failure(code: str, status: int, words: str) -> Exception:
    """What an answer with an error means. Codes are the server's words, and hold nothing of ours."""
    if code in _MISSING:
        return _Missing()
    if code in _FULL or status == 507:
        return OSError(errno.ENOSPC, f"the disk of {words} is full.")
    if code == "NoSuchBucket":
        return StoreRefuses(f"there is no {words}.")
    if status in (401, 403) or code in ("AccessDenied", "AllAccessDisabled"):
        return StoreRefuses(f"{words} refuses our keys, or lacks a right for them ({code}).")
    return StoreUnavailable(f"{words} answers with an error ({code or status}).")

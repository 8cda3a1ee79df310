"""Opening the store of a URL: `s3://bucket/prefix`, a path or `file:///path`; without one, a folder of the data folder.

A path is taken as it is written: `?`, `#`, `%` and spaces are characters of its name.

Opening proves that objects can be written, read and destroyed, so a service that starts can keep its promises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from service.artifacts.folder import FolderStore
from service.artifacts.store import Store, StoreRefuses, StoreUnavailable, prove
from service.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from service.settings import S3Settings

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # Amazon's rules, as far as they keep a URL unambiguous
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(?=://)|file(?=:)", re.IGNORECASE)
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_RETRY_SECONDS = 5


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the service's own prefix in it: `""`, or ends with a slash."""

    name: str
    prefix: str


def open_store(url: str | None, *, folder: Path, s3: S3Settings, read_only: bool = False) -> Store:
    """The store of that URL; `folder` without one. Raises Misconfigured or Unavailable, in words without secrets.

    read_only  do not try to write.
    """
    place = parse_store_url(url) if url else folder
    if isinstance(place, Path):
        return _open_folder(place, named=bool(url))
    from service.artifacts.s3 import S3Store, connect  # late: a service with a folder never loads the library

    try:
        store = S3Store(connect(s3), bucket=place.name, prefix=place.prefix, endpoint=s3.endpoint_url)
        store.check()  # first: some servers make a bucket that is missing when something is put there
        if not read_only:
            prove(store)
    except StoreRefuses as refusal:
        raise Misconfigured(f"The store cannot be used: {refusal.strerror}") from None
    except StoreUnavailable as failure:
        raise Unavailable(f"The store cannot be reached: {failure.strerror}", retry_after=_RETRY_SECONDS) from None
    return store


def _open_folder(folder: Path, *, named: bool) -> Store:
    try:
        return FolderStore(folder)
    except OSError as error:
        if not named:
            raise
        raise Misconfigured(f"The store {folder} cannot be used: {error.strerror}.") from None


def scheme_of(text: str) -> str | None:
    """Of a URL, in small letters; None for a path, which may well have `://` somewhere in it."""
    found = _SCHEME.match(text)
    return found[0].lower() if found else None


def parse_store_url(url: str) -> Bucket | Path:
    """What a URL names. Raises Misconfigured; the words never repeat a URL that may hold a secret."""
    scheme = scheme_of(url)
    if scheme is None:
        return Path(url).absolute()
    if scheme not in ("s3", "file"):
        raise Misconfigured(f"store_url: no store is known by {scheme}://. Use s3://bucket/prefix, or a path.")
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        raise Misconfigured(f"store_url: what follows {scheme}:// is not understood.") from None
    bare = not any(mark in url for mark in "?#")
    if scheme == "s3":
        return _bucket(parts.netloc, parts.path.strip("/"), whole=bare)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or not bare:
        raise Misconfigured(
            "store_url: a file URL names an absolute path of this machine, as in file:///srv/oubli, "
            "with %3F and %23 for ? and #."
        )
    return Path(unquote(parts.path))


def store_folder(url: str) -> Path | None:
    """The folder that a store's URL names; None for a bucket. Raises Misconfigured."""
    place = parse_store_url(url)
    return place if isinstance(place, Path) else None


def ledger_folder(url: str) -> Path | None:
    """The folder that a ledger's URL names; None for a bucket. Raises Misconfigured."""
    scheme = scheme_of(url)
    if scheme not in (None, "s3"):
        raise Misconfigured(f"OUBLI_LEDGER_URL: {url} is neither a folder nor s3://bucket/prefix.")
    return Path(url).expanduser() if scheme is None else None


def _bucket(name: str, prefix: str, *, whole: bool) -> Bucket:
    if "@" in name:
        raise Misconfigured("store_url: no keys in there. Use s3.access_key_id and s3.secret_access_key.")
    if not whole or not _BUCKET.fullmatch(name):
        raise Misconfigured("store_url: use s3://bucket/prefix, with a bucket name of small letters, digits, - and .")
    if prefix and not all(_SEGMENT.fullmatch(segment) for segment in prefix.split("/")):
        raise Misconfigured("store_url: a prefix is made of letters, digits, _, - and ., divided by single slashes.")
    return Bucket(name, f"{prefix}/" if prefix else "")

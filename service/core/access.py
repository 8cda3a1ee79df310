"""API keys: created once, kept as a digest, checked on every request; they expire, and can be rotated and revoked."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from service import private
from service.clock import Clock, system_clock
from service.core.text import check_text
from service.errors import Conflict, Forbidden, Invalid, Misconfigured, NotFound, Unauthorized
from service.registry import keys
from service.registry.engine import ReadSession, Registry
from service.registry.records import SCOPES, ApiKey, Page
from service.settings import Settings

log = logging.getLogger(__name__)

NOTED = timedelta(minutes=1)  # least time between two writes of a key's last use
OVERLAP = timedelta(hours=24)  # how long a rotated key is valid beside its replacement
LONGEST_OVERLAP = timedelta(days=90)
FAR = 9000  # latest year of an expiry: converted to any time zone, it is still a valid date
LONGEST_NAME = 128  # characters


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _new_secret() -> str:
    return f"oubli_{secrets.token_urlsafe(32)}"


def create_key(
    registry: Registry, clock: Clock, *, scopes: Sequence[str], name: str = "", expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its secret, which cannot be read again later.

    Raises Invalid for an unknown scope, for a name that is too long or has control characters, and for an expiry in the
    past.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise Invalid(f"Unknown scopes: {', '.join(unknown) or 'none given'}. Known: {', '.join(SCOPES)}.")
    name = check_text("name", name, most=LONGEST_NAME) if name.strip() else ""
    now, secret = clock(), _new_secret()
    _require_future(expires_at, now)
    with registry.write() as session:
        key = keys.create(
            session, name=name, digest=_digest(secret), scopes=sorted(set(scopes)), now=now, expires_at=expires_at
        )
    return key, secret


def _require_future(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and not (now < expires_at and expires_at.year < FAR):
        raise Invalid(f"expires_at: {expires_at:%Y-%m-%d} is not in the future. Give a later time, or none.")


# ----------------------------------------------------------------------------------------------------------- checks


def check(registry: Registry, secret: str | None, scopes: Sequence[str], *, clock: Clock = system_clock) -> ApiKey:
    """The key with this secret. Raises Unauthorized or Forbidden unless it is valid and has every scope, or `admin`."""
    return admit(secret, look_up(registry, [secret] if secret else []), scopes, now=clock())


def look_up(registry: Registry, presented: Iterable[str]) -> Mapping[str, ApiKey]:
    """The keys with these secrets, by secret; unknown and revoked ones are left out."""
    digests = {_digest(secret): secret for secret in presented}
    with registry.read_one() as session:
        return {digests[digest]: key for digest, key in keys.by_digests(session, list(digests)).items()}


def admit(secret: str | None, known: Mapping[str, ApiKey], scopes: Sequence[str], *, now: datetime) -> ApiKey:
    """The key with this secret, from those that `look_up` has found.

    Raises Unauthorized or Forbidden unless it was found, has not expired, and has every scope, or `admin`.
    """
    if not secret:
        raise Unauthorized("Send an API key: `Authorization: Bearer <key>`.")
    key = known.get(secret)
    if key is None:
        raise Unauthorized("This API key is not known, or has been revoked.", reason="unknown")
    if key.has_expired(now):
        raise Unauthorized("This API key has expired.", reason="expired")
    missing = sorted(set(scopes) - set(key.scopes))
    if missing and "admin" not in key.scopes:
        raise Forbidden(f"This API key lacks the scope {', '.join(missing)}.")
    return key


def use_is_news(key: ApiKey, now: datetime) -> bool:
    """Whether the recorded last use is so old that this use is worth a write."""
    return key.last_used_at is None or now - key.last_used_at >= NOTED


def note_use(registry: Registry, key_ids: Iterable[str], *, now: datetime) -> None:
    """Record that these keys are used now. Never raises: a request is not refused because this cannot be written."""
    try:
        with registry.write_beside_plans() as session:
            keys.note_use(session, key_ids, now=now)
    except Exception as error:  # whatever the database's reason
        log.debug("the last use of a key is not on record (%s)", type(error).__name__)


def require_guarded(settings: Settings, host: str) -> None:
    """Raise Misconfigured for an API that asks for no keys and can be reached from other machines."""
    if not settings.auth and not _is_loopback(host):
        raise Misconfigured(
            f"OUBLI_AUTH=false admits every client that can reach {host or 'this machine'}. Without keys the API "
            "listens on this machine alone: --host 127.0.0.1, or leave OUBLI_AUTH as it is."
        )


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine alone; of a name, every address must be."""
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


# ---------------------------------------------------------------------------------------------------------- management


def list_keys(registry: Registry) -> list[ApiKey]:
    """All keys, oldest first, revoked ones included."""
    with registry.read() as session:
        return keys.every(session)


def page_of_keys(registry: Registry, *, limit: int, cursor: str | None) -> Page[ApiKey]:
    """A page of all keys, oldest first. Raises Invalid for a cursor that was never returned."""
    with registry.read() as session:
        return keys.page(session, limit=limit, cursor=cursor)


def get_key(registry: Registry, given: str) -> ApiKey:
    """The key with this id, or with an id that begins so. Raises NotFound, or Conflict if several ids begin so."""
    with registry.read() as session:
        return _find(session, given)


def _find(session: ReadSession, given: str) -> ApiKey:
    wanted = given.strip().lower().replace("-", "")
    found = [key for key in keys.every(session) if key.id.replace("-", "").startswith(wanted)]
    if len(wanted) < keys.PREFIX:
        raise NotFound(f"There is no key {given}. Give its id, or {keys.PREFIX} characters of it.")
    if not found:
        raise NotFound(f"There is no key {given}.")
    if len(found) > 1:
        raise Conflict(f"{len(found)} keys begin with {given}; give more of the id: {', '.join(k.id for k in found)}.")
    return found[0]


def revoke_key(registry: Registry, clock: Clock, given: str, *, keep_an_admin: bool = False) -> ApiKey:
    """Refuse a key from now on; the key, revoked. `given` is an id or its beginning: raises as `get_key` does.

    keep_an_admin  raise Conflict rather than revoke the last key that can create others.
    """
    now = clock()
    with registry.write() as session:
        key = _find(session, given)
        if keep_an_admin and key.is_active(now) and "admin" in key.scopes and not _other_admin(session, key, now):
            raise Conflict("This is the last valid key with the scope admin. Make another one first.")
        keys.revoke(session, key.id, now=now)
        return keys.get(session, key.id) or key


def _other_admin(session: ReadSession, key: ApiKey | None, now: datetime) -> ApiKey | None:
    """Another valid key with the scope `admin`: the one that expires last. None if there is none."""
    own = key.id if key is not None else None
    found = [k for k in keys.every(session) if "admin" in k.scopes and k.is_active(now) and k.id != own]
    return max(found, key=lambda k: (k.expires_at is None, k.expires_at or now), default=None)


def rotate_key(
    registry: Registry,
    clock: Clock,
    given: str,
    *,
    overlap: timedelta = OVERLAP,
    expires_at: datetime | None = None,
    kept_in: Path | None = None,
) -> tuple[ApiKey, ApiKey, str]:
    """Replace a key: (the old key, the new key, the new secret, which cannot be read again later).

    The new key has the name, the scopes and the lifetime of the old one. Both are valid during the overlap. `given` is
    an id or its beginning: raises as `get_key` does; Conflict for a key that is no longer valid, or has been rotated
    already; Invalid for an expiry in the past.

    kept_in  a file to be given the new secret if it contains the old one: the data folder's admin key.
    """
    now, secret = clock(), _new_secret()
    _require_future(expires_at, now)
    with registry.write() as session:
        old = _find(session, given)
        if not old.is_active(now) or old.replaced_by is not None:
            state = "been rotated already" if old.replaced_by is not None else "ended"
            raise Conflict(f"Key {old.id} has {state}. Make a new one, or rotate the one that replaced it.")
        life = old.expires_at - old.created_at if old.expires_at is not None else None
        end = expires_at if expires_at is not None else now + life if life is not None else None
        new = keys.create(session, name=old.name, digest=_digest(secret), scopes=old.scopes, now=now, expires_at=end)
        last = min(filter(None, (now + overlap, old.expires_at)))
        keys.replace(session, old.id, by=new.id, expires_at=last)
        replaced = keys.get(session, old.id) or old
        is_kept = kept_in is not None and keys.of_digest(session, _digest(_read(kept_in))) == replaced
    if kept_in is not None and is_kept:
        write_secret(kept_in, secret)
    return replaced, new, secret


# -------------------------------------------------------------------------------------------------- the embedded admin


@dataclass(frozen=True)
class AdminKey:
    """The outcome of `ensure_admin_key`; without either field, the key in the data folder was valid already.

    secret   of the key that was created.
    instead  no key was created, because this valid admin key exists: its id.
    """

    secret: str | None = field(default=None, repr=False)
    instead: str | None = None


def ensure_admin_key(registry: Registry, clock: Clock, path: Path) -> AdminKey:
    """Make sure that `path` contains a valid admin key, readable by its owner only.

    A key there that was revoked or has expired is replaced only if no other valid admin key is left.
    """
    now = clock()
    with registry.read() as session:
        key = keys.of_digest(session, _digest(_read(path)))
        other = _other_admin(session, key, now)
    if key is not None and key.is_active(now) and "admin" in key.scopes:
        return AdminKey()
    if key is not None and other is not None:
        return AdminKey(instead=other.id)
    _, secret = create_key(registry, clock, scopes=["admin"], name="admin (made at first start)")
    write_secret(path, secret)
    return AdminKey(secret=secret)


def _read(path: Path) -> str:
    """The secret in that file; empty without a file, which is no key's secret."""
    return path.read_text().strip() if path.is_file() else ""


def write_secret(path: Path, secret: str) -> None:
    """Write a secret to a file that its owner alone may read; a reader sees the old secret or the new one."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(temporary, "x", opener=private.opener) as file:
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

"""API keys: made once, kept as a digest, checked on every request."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

from service.clock import Clock
from service.core.text import check_text
from service.errors import Forbidden, Invalid, Unauthorized
from service.registry import keys
from service.registry.engine import Registry
from service.registry.records import SCOPES, ApiKey


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(registry: Registry, clock: Clock, *, scopes: Sequence[str], name: str = "") -> tuple[ApiKey, str]:
    """A new key and its secret, which is not to be had again. Raises Invalid for an unknown scope or name."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise Invalid(f"Unknown scopes: {', '.join(unknown) or 'none given'}. Known: {', '.join(SCOPES)}.")
    name = check_text("name", name, most=200) if name.strip() else ""
    secret = f"oubli_{secrets.token_urlsafe(32)}"
    with registry.write() as session:
        key = keys.create(session, name=name, digest=_digest(secret), scopes=sorted(set(scopes)), now=clock())
    return key, secret


def check(registry: Registry, secret: str | None, scopes: Sequence[str]) -> None:
    """Raise Unauthorized or Forbidden unless the key is known and has every scope, or `admin`."""
    admit(secret, look_up(registry, [secret] if secret else []), scopes)


def look_up(registry: Registry, presented: Iterable[str]) -> Mapping[str, ApiKey]:
    """The keys of these secrets, without those that are unknown or revoked."""
    digests = {_digest(secret): secret for secret in presented}
    with registry.glance() as session:
        return {digests[digest]: key for digest, key in keys.by_digests(session, list(digests)).items()}


def admit(secret: str | None, known: Mapping[str, ApiKey], scopes: Sequence[str]) -> None:
    """Raise Unauthorized or Forbidden unless this secret's key is among the known and has every scope, or `admin`."""
    if not secret:
        raise Unauthorized("Send an API key: `Authorization: Bearer <key>`.")
    key = known.get(secret)
    if key is None:
        raise Unauthorized("This API key is not known, or has been revoked.")
    missing = sorted(set(scopes) - set(key.scopes))
    if missing and "admin" not in key.scopes:
        raise Forbidden(f"This API key lacks the scope {', '.join(missing)}.")


def ensure_admin_key(registry: Registry, clock: Clock, path: Path) -> bool:
    """Leave a working admin key in `path`, readable by its owner only; whether it had to be made."""
    if path.is_file():
        key = look_up(registry, [secret := path.read_text().strip()]).get(secret)
        if key is not None and "admin" in key.scopes:
            return False
    _, secret = create_key(registry, clock, scopes=["admin"], name="admin (made at first start)")
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
    temporary.replace(path)
    return True


def list_keys(registry: Registry) -> list[ApiKey]:
    """All keys, oldest first, revoked ones included."""
    with registry.read() as session:
        return keys.every(session)


def revoke_key(registry: Registry, clock: Clock, key_id: str) -> bool:
    """Refuse a key from now on; False if there is none of this id."""
    try:
        canonical = str(UUID(key_id))
    except ValueError:
        return False
    with registry.write() as session:
        return keys.revoke(session, canonical, now=clock())

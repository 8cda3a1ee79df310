"""Making, listing, rotating and revoking API keys."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Annotated

from fastapi import Path, Request, Response, status

from service.api.deps import PagingParameters, Running, located, scope
from service.api.front import front_router
from service.api.problems import BODY, responses
from service.api.schemas.common import Listing
from service.api.schemas.keys import Key, KeyRequest, NewKey, RotationRequest
from service.core import access
from service.registry import records

log = logging.getLogger(__name__)

router = front_router(tags=["keys"], dependencies=[scope("admin")])

KeyId = Annotated[
    str,
    Path(
        pattern=r"^[0-9A-Fa-f-]{8,36}$",
        description="Its id, or the first characters of it, eight or more, that no other key's id begins with.",
    ),
]


def _made(key: records.ApiKey, secret: str, request: Request, response: Response) -> NewKey:
    response.headers["Location"] = located(request, f"/keys/{key.id}")
    return NewKey(**Key.model_validate(key).model_dump(), secret=secret)


@router.post(
    "/keys",
    status_code=status.HTTP_201_CREATED,
    response_model=NewKey,
    responses=responses(*BODY, 503, 507),
    summary="Make an API key",
)
def create_key(service: Running, request: Request, response: Response, body: KeyRequest) -> NewKey:
    """Its secret is in this answer, and in no other: only a digest is kept."""
    context = service.context
    key, secret = access.create_key(
        context.registry, context.clock, scopes=body.scopes, name=body.name, expires_at=body.expires_at
    )
    log.info("key %s is made", key.id)
    return _made(key, secret, request, response)


@router.get("/keys", response_model=Listing[Key], responses=responses(503), summary="List API keys")
def list_keys(service: Running, paging: PagingParameters) -> Listing[Key]:
    """Oldest first, without secrets; those that are revoked or have expired are among them."""
    page = access.page_of_keys(service.context.registry, limit=paging.limit, cursor=paging.cursor)
    return Listing(items=[Key.model_validate(key) for key in page.items], next_cursor=page.next_cursor)


@router.get("/keys/{key_id}", response_model=Key, responses=responses(404, 409, 503), summary="Look at one API key")
def get_key(service: Running, key_id: KeyId) -> Key:
    """Without its secret."""
    return Key.model_validate(access.get_key(service.context.registry, key_id))


@router.delete("/keys/{key_id}", response_model=Key, responses=responses(404, 409, 503), summary="Revoke an API key")
def revoke_key(service: Running, key_id: KeyId) -> Key:
    """Every replica refuses the key from this answer on. Not the last valid key with the scope `admin`: 409."""
    context = service.context
    key = access.revoke_key(context.registry, context.clock, key_id, keep_an_admin=True)
    log.info("key %s is revoked", key.id)
    return Key.model_validate(key)


@router.post(
    "/keys/{key_id}/rotate",
    status_code=status.HTTP_201_CREATED,
    response_model=NewKey,
    responses=responses(*BODY, 404, 409, 503, 507),
    summary="Put a new API key in the place of another",
)
def rotate_key(
    service: Running, request: Request, response: Response, key_id: KeyId, body: RotationRequest | None = None
) -> NewKey:
    """With the same name and scopes. The old one is valid beside it for `overlap_seconds`, then refused.

    The admin key that lies in the service's own data folder is replaced there as well.
    """
    context, asked = service.context, body or RotationRequest()
    old, new, secret = access.rotate_key(
        context.registry,
        context.clock,
        key_id,
        overlap=timedelta(seconds=asked.overlap_seconds),
        expires_at=asked.expires_at,
        kept_in=context.settings.data_dir / "admin-key",
    )
    log.info("key %s is rotated to %s", old.id, new.id)
    return _made(new, secret, request, response)

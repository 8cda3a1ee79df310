"""A single image as the request's body itself, beside multipart: `application/octet-stream` or `image/*`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError


def media_type(content_type: str) -> str:
    """Of a `Content-Type`: without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_raw_image(kind: str) -> bool:
    """Whether a body of this media type is the image itself."""
    return kind == "application/octet-stream" or kind.startswith("image/")


async def _raw_image(request: Request) -> bytes | None:
    return await request.body() if is_raw_image(media_type(request.headers.get("content-type", ""))) else None


RawImage = Annotated[bytes | None, Depends(_raw_image)]  # None: the body is something else


def missing(place: str, *names: str) -> RequestValidationError:
    """As FastAPI says it of a parameter that it requires itself."""
    said = {"type": "missing", "msg": "Field required", "input": None}
    return RequestValidationError([{**said, "loc": (place, name)} for name in names])


def documented(*required: str) -> dict[str, Any]:
    """For `openapi_extra`: both kinds of body, and what a multipart one must have."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    content = {
        "multipart/form-data": {"schema": {"required": list(required)}},
        "application/octet-stream": raw,
        "image/*": raw,
    }
    return {"requestBody": {"required": True, "content": content}}

"""Failures that a caller is told of, each with its HTTP status and a title that never changes.

`detail` is written for the person who sent the request. One handler (`service.api.problems`) renders them all as
application/problem+json (RFC 9457); the command line prints `detail`.
"""

from __future__ import annotations

import errno
from errno import EDQUOT, ENOSPC
from typing import ClassVar


class ServiceError(Exception):
    """A failure with words for the caller."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None  # seconds

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if retry_after is not None:  # else the kind's own
            self.retry_after = retry_after


class NotFound(ServiceError):
    """No such thing, or no longer."""

    status = 404
    title = "Not found"


class Unauthorized(ServiceError):
    """No key, or one that is not valid; `reason` says which: `missing`, `unknown` (or revoked) or `expired`."""

    status = 401
    title = "Unauthorized"

    def __init__(self, detail: str, *, reason: str = "missing") -> None:
        super().__init__(detail)
        self.reason = reason


class Forbidden(ServiceError):
    """A known key without the scope that this needs."""

    status = 403
    title = "Forbidden"


class Invalid(ServiceError):
    """The request is well-formed and makes no sense."""

    status = 422
    title = "Invalid request"


class UnsupportedMedia(ServiceError):
    """The upload is no image."""

    status = 415
    title = "Unsupported media type"


class TooLarge(ServiceError):
    """The upload exceeds a limit."""

    status = 413
    title = "Content too large"


class ClientGone(ServiceError):
    """The client has closed the connection before its answer."""

    status = 400
    title = "Bad request"


class TooSlow(ServiceError):
    """The client took too long to send its request."""

    status = 408
    title = "Request timeout"


class TooManyHeaders(ServiceError):
    """The request's address and headers exceed a limit."""

    status = 431
    title = "Request header fields too large"


class Malformed(ServiceError):
    """What came is no request, or ended before it was one."""

    status = 400
    title = "Bad request"


class Conflict(ServiceError):
    """The request conflicts with what is on record, or with another request under way."""

    status = 409
    title = "Conflict"


class Busy(ServiceError):
    """The queue is full."""

    status = 429
    title = "Too many requests"
    retry_after = 1


class OverBudget(ServiceError):
    """This API key has asked for too much lately; `retry_after` says when it may ask again."""

    status = 429
    title = "Too many requests"


class Unavailable(ServiceError):
    """Not now."""

    status = 503
    title = "Service unavailable"
    retry_after = 2


class OutOfSpace(ServiceError):
    """The service's disk is full."""

    status = 507
    title = "Insufficient storage"
    retry_after = 30


DISK_FULL = "The service's disk is full. Make room."


def is_disk_full(error: BaseException) -> bool:
    """Whether that is what an error of the operating system or of the registry comes down to."""
    return isinstance(error, OutOfSpace) or (isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT))


STORE_AWAY = "The store of images and prompts does not answer, or refuses, just now."

_AWAY = {  # what a disk, a network disk or `artifacts.StoreUnavailable` says of itself; not what a mistake of ours says
    getattr(errno, name)
    for name in (
        "EIO", "EROFS", "EACCES", "EPERM", "ESTALE", "ETIMEDOUT", "ENODEV", "ENXIO", "EREMOTEIO", "EAGAIN", "EBUSY",
        "ENOLCK", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED",
        "ENOTCONN", "ESHUTDOWN", "EMFILE", "ENFILE",
    )
    if hasattr(errno, name)  # some are Linux's own
}  # fmt: skip


def is_store_away(error: BaseException) -> bool:
    """Whether an error of the operating system or of the store may be gone when the same is tried again."""
    return isinstance(error, OSError) and error.errno in _AWAY


class Misconfigured(ServiceError):
    """The service cannot start with these settings on this data."""

    status = 500
    title = "Misconfigured"

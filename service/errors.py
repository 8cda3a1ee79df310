"""Failures that a caller is told of, each with its HTTP status, and a code and a title that never change.

`detail` is written for the person who sent the request, `code` for the program. One handler (`service.api.problems`)
renders them all as application/problem+json (RFC 9457); the command line prints `detail`.
"""

from __future__ import annotations

import errno
import inspect
import sys
from errno import EDQUOT, ENOSPC
from typing import ClassVar

URN = "urn:oubli:problem:"  # and the code, for a problem's `type`


class ServiceError(Exception):
    """Something went wrong on the service's side; its log tells more under the request's id.

    code    which kind of failure, for programs: once published it never changes, whatever becomes of class and title.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None  # seconds

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if retry_after is not None:  # else the kind's own
            self.retry_after = retry_after


class NotFound(ServiceError):
    """There is no such sample, owner, erasure, cluster or key, or no longer."""

    status = 404
    code = "not-found"
    title = "Not found"


class NoSuchPath(NotFound):
    """The address is none of the service's, as a mistyped base address is; of the data it says nothing."""

    code = "no-such-path"


class MethodNotAllowed(ServiceError):
    """The path is known, and does not have this method; `Allow` names those that it has."""

    status = 405
    code = "method-not-allowed"
    title = "Method not allowed"


class Unauthorized(ServiceError):
    """No key, or one that is not valid.

    reason  which, in one word: `missing`, `unknown` (or revoked) or `expired`.
    """

    status = 401
    code = "unauthorized"
    title = "Unauthorized"

    def __init__(self, detail: str, *, reason: str = "missing") -> None:
        super().__init__(detail)
        self.reason = reason


class Forbidden(ServiceError):
    """A valid key without the scope that this needs."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class Invalid(ServiceError):
    """The request is well-formed and makes no sense; `errors` names the fields, where it is theirs."""

    status = 422
    code = "invalid"
    title = "Invalid request"


class UnsupportedMedia(ServiceError):
    """The file is no image, or of a format that is not taken in."""

    status = 415
    code = "unsupported-media"
    title = "Unsupported media type"


class TooLarge(ServiceError):
    """The body, or a file in it, exceeds a limit."""

    status = 413
    code = "too-large"
    title = "Content too large"


class ClientGone(ServiceError):
    """The client has closed the connection before it was answered."""

    status = 400
    code = "client-gone"
    title = "Bad request"


class TooSlow(ServiceError):
    """The client took too long to send its request."""

    status = 408
    code = "too-slow"
    title = "Request timeout"


class TooManyHeaders(ServiceError):
    """The request's address and headers exceed a limit."""

    status = 431
    code = "too-many-headers"
    title = "Request header fields too large"


class Malformed(ServiceError):
    """The received bytes are no request, or ended before they were one."""

    status = 400
    code = "malformed"
    title = "Bad request"


class Conflict(ServiceError):
    """The request conflicts with what is on record, or with another request under way."""

    status = 409
    code = "conflict"
    title = "Conflict"


class NothingContributed(Conflict):
    """No sample is on record, so there is nothing to predict from; waiting does not help."""

    code = "nothing-contributed"


class StillRunning(Conflict):
    """Another request with this `Idempotency-Key` is under way, or was faster: sent again, this one gets its answer."""

    code = "still-running"


class Busy(ServiceError):
    """More is asked for than may wait; `Retry-After` says when to ask again."""

    status = 429
    code = "busy"
    title = "Too many requests"
    retry_after = 1


class OverBudget(ServiceError):
    """The budget of this API key is spent; `retry_after` says when it may ask again."""

    status = 429
    code = "over-budget"
    title = "Too many requests"


class Unavailable(ServiceError):
    """Something that this needs is away, warming up or stopping just now; `Retry-After` says when to ask again."""

    status = 503
    code = "unavailable"
    title = "Service unavailable"
    retry_after = 2


class OutOfSpace(ServiceError):
    """The service's disk is full."""

    status = 507
    code = "out-of-space"
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
    code = "misconfigured"
    title = "Misconfigured"


def kinds() -> list[type[ServiceError]]:
    """What a request can be answered with, by status: all of the above but a start that fails."""
    found = [kind for _, kind in inspect.getmembers(sys.modules[__name__], inspect.isclass)]
    answered = {kind for kind in found if issubclass(kind, ServiceError)} - {Misconfigured}
    return sorted(answered, key=lambda kind: (kind.status, kind.code))

"""Every error leaves as application/problem+json (RFC 9457), FastAPI's own too; a 500 tells only its request id."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service import log as logs
from service.api.paths import Paths, path_of
from service.api.schemas.common import FieldProblem, Problem
from service.errors import (
    DISK_FULL,
    STORE_AWAY,
    Malformed,
    NotFound,
    OutOfSpace,
    ServiceError,
    TooLarge,
    TooSlow,
    Unavailable,
    is_disk_full,
    is_store_away,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# A status has one title, whether the framework or this service raises it.
TITLES = {kind.status: kind.title for kind in (Malformed, NotFound, TooSlow, TooLarge)}
# Headers of every answer: browsers and proxies must not reinterpret, embed or store it. Most answers hold personal
# data, or say which samples are on record.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
BODY = (400, 408, 413)  # what any operation that reads a body may answer: garbled, too slow, too large


def problem_of(error: ServiceError, instance: str) -> Problem:
    """A domain error as a problem."""
    return Problem(title=error.title, status=error.status, detail=error.detail, instance=instance)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """The problem as a response."""
    body = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, problem.status, SAFE | (headers or {}), media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error statuses of an operation that asks for a key; each may answer 401, 403, 422 and 500 as well."""
    return described(401, 403, 422, 500, *statuses)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Just these error statuses, for an OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted({*statuses})}


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(Exception, _unexpected)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return respond(problem_of(error, request.url.path), headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [
        FieldProblem(field=_printable(".".join(str(part) for part in item["loc"])), detail=_words(item))
        for item in error.errors()
    ]
    summary = "; ".join(f"{field.field}: {field.detail}" for field in fields[:3])
    problem = Problem(title="Invalid request", status=422, detail=summary, instance=request.url.path, errors=fields)
    return respond(problem)


def _words(item: dict[str, Any]) -> str:
    """Pydantic's message, without the value: it may be personal."""
    message: str = item["msg"]
    if item["type"] == "json_invalid":
        message = f"{message}: {item['ctx']['error']}"
    return _printable(message.removeprefix("Value error, "))


def _printable(text: str) -> str:
    """A client's own words, such as the name of a member: JSON can spell half a character, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, dict(error.headers or {})
    title = TITLES.get(status, HTTPStatus(status).phrase)
    paths: Paths | None = getattr(request.app.state, "paths", None)
    if status == HTTPStatus.METHOD_NOT_ALLOWED and paths is not None:
        headers["Allow"] = ", ".join(paths.methods(path_of(request.scope)))  # the framework names one route's alone
    return respond(Problem(title=title, status=status, detail=str(error.detail), instance=request.url.path), headers)


async def _os_error(request: Request, error: Exception) -> JSONResponse:
    if is_disk_full(error):
        log.error("the disk is full: %s", getattr(error, "strerror", None) or type(error).__name__)
        return await _service_error(request, OutOfSpace(DISK_FULL))
    if is_store_away(error):
        log.error("the store is away: %s", error)  # for the operator alone: it may name the server and its bucket
        return await _service_error(request, Unavailable(f"{STORE_AWAY} Nothing was changed. Try again in a moment."))
    return await _unexpected(request, error)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    request_id = request.scope.get("oubli_request_id", "unknown")
    with logs.request(request_id):  # this handler stands outside of the middleware that gives it
        log.error("request %s failed", request_id, exc_info=error)
    problem = Problem(
        title="Internal error",
        status=500,
        detail=f"Something went wrong on our side. Please report request {request_id}.",
        instance=request.url.path,
    )
    # The server closes this connection once the exception has reached it: say so, lest the client use it again.
    return respond(problem, {"X-Request-Id": request_id, "Connection": "close"})


def batch_problems(problems: Sequence[tuple[str, ServiceError]], instance: str) -> Problem:
    """Several images of one request, each with its own problem; the status is the first one's."""
    first = problems[0][1]
    fields = [FieldProblem(field=field, detail=error.detail) for field, error in problems]
    problem = problem_of(first, instance)
    return problem.model_copy(update={"errors": fields})

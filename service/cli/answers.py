"""Reading HTTP answers, of Oubli or of another server in its place.

A proxy's page, a portal's redirect, another program on the port: each becomes one line that says what answered. No
redirect is followed: the key would go with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from service.errors import ServiceError

LONGEST_PAUSE = 30.0  # seconds; a longer `Retry-After` is not waited for, but printed


class Refused(ServiceError):
    """The service answered with a problem, or nothing answered.

    code    the HTTP status; None if there was no answer.
    fields  what the problem says of parts of the request, by their names.
    """

    status = 400
    title = "Refused"

    def __init__(self, detail: str, *, code: int | None = None, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.fields = dict(fields or {})


class Unreachable(Refused):
    """No server answers at the address."""


class NotOubli(Refused):
    """Something else answered, or a release that this one does not understand."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}. Is it Oubli, of this release, that answers there? See --url.")


class JsonAnswer(dict[str, Any]):
    """A JSON object of an answer. Looking up what it lacks raises NotOubli."""

    def __missing__(self, key: str) -> NoReturn:
        raise NotOubli(f"The answer says nothing of {key!r}")


def items(answer: JsonAnswer, name: str, count: int) -> list[JsonAnswer]:
    """The list of that name, with so many entries. Raises NotOubli if it is none."""
    found = answer[name]
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, JsonAnswer) for one in found):
        raise NotOubli(f"The answer's {name!r} is no list of {count}")
    return found


def read(response: httpx.Response) -> JsonAnswer:
    """The object that a successful answer holds. Raises Refused, in words, for every other answer."""
    if response.is_error:
        raise refusal(response)
    if response.has_redirect_location:
        raise NotOubli(f"The answer ({response.status_code}) points elsewhere, to {response.headers['Location']}")
    try:
        found = response.json(object_hook=JsonAnswer)
    except (ValueError, RecursionError):
        found = None
    if response.is_success and isinstance(found, JsonAnswer):
        return found
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip() or "of no type"
    said = "is empty" if not response.content else "is JSON of another shape" if found is not None else f"is {kind}"
    raise NotOubli(f"The answer ({response.status_code}) {said}")


def refusal(response: httpx.Response, advice: str = "") -> Refused:
    """An answer of 4xx or 5xx as Refused: with the problem's words (RFC 9457), or a line about another server's page.

    advice  is said after them.
    """
    code = response.status_code
    try:
        problem = response.json()
    except (ValueError, RecursionError):
        problem = None
    if not (isinstance(problem, dict) and {"title", "detail"} <= problem.keys()):
        reason = f" ({response.reason_phrase})" if response.reason_phrase else ""
        said = f"The answer is {code}{reason}, and not in Oubli's words: a proxy's, perhaps"
        return Refused(f"{said}. Try again, or see --url.{advice}", code=code)
    errors = problem.get("errors")
    parts = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    fields = {str(part.get("field")): str(part.get("detail")) for part in parts}
    return Refused(f"{problem['title']}: {problem['detail']}{advice}", code=code, fields=fields)


def pause_before_retry(response: httpx.Response) -> float:
    """Seconds that `Retry-After` asks for (RFC 9110, 10.2.3): a number or a date; 1 where it is neither, or missing."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 1.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())

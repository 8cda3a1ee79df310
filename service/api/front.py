"""The front of every route: it checks the caller's key before it reads a byte of the body, then unknown parameters.

`FrontRoute` stands where FastAPI would read the body and only then look at keys. In this order it refuses a method that
the path does not have (405), a key that may not (401, 403), a body where none is read (422), an announced length that
is too large (413), and query parameters that the route does not have or that come twice (422); form fields likewise,
once they have come. A misspelt filter would else list what the client did not ask for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from types import NoneType
from typing import Any, get_args, get_origin

from fastapi import APIRouter, Depends, params
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import Body
from service.api.deps import admit, check_key
from service.api.paths import Paths, path_of
from service.api.problems import MOST_FIELDS
from service.api.raw_body import is_raw_image, media_type
from service.settings import Settings

FORM_OVERHEAD = 100_000  # bytes of a multipart body beside its one file
MOST_MEMBERS = 100  # of one JSON object; none that is understood has as many
MAX_FIELDS = 64  # of a form, beside its files; each is kept in memory, up to 1 MB
_NO_BODY = {"type": "unknown", "loc": ("body",), "msg": "Nothing is read of a body here; send none", "input": None}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class FrontRoute(APIRoute):
    """A route that checks key, length and parameters before it reads the body."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dependencies: Sequence[params.Depends] | None = None,
        **options: Any,
    ) -> None:
        options["form_limits"] = {"max_fields": MAX_FIELDS}
        also = [*(dependencies or ()), Depends(_refuse_unknown_fields)]
        super().__init__(path, endpoint, dependencies=also, **options)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, behind the checks of this route."""
        handle = super().get_route_handler()
        known = dict.fromkeys(_names(_query_fields(self.dependant)), False)
        reads_body = any(each.body_params for each in _tree(self.dependant))
        scopes = [scope for need in self.dependencies for scope in _scopes(need)]

        async def look_first(request: Request) -> Response:
            state = request.app.state
            _refuse_method(state.paths, request)
            await admit(request, scopes)
            body: Body = request.scope["oubli_body"]
            if body.is_coming and not reads_body:
                raise RequestValidationError([_NO_BODY])
            body.bound(_largest(state.settings, self.path, request.headers.get("content-type", "")))
            _refuse_unknown("query", request.query_params.multi_items(), known)
            return await handle(StrictRequest(request.scope, request.receive))

        return look_first

    @cached_property
    def form_fields(self) -> dict[str, bool]:
        """Of a multipart body: whether each may come several times. {} for a route that reads none."""
        fields = [field for each in _tree(self.dependant) for field in each.body_params]
        forms = [field for field in fields if isinstance(field.field_info, params.Form)]
        return {field.alias: _is_list(field.field_info.annotation) for field in forms}


class StrictRequest(Request):
    """A request whose JSON names no member twice: the last one would win, silently."""

    async def json(self) -> Any:
        """The decoded body. Raises json.JSONDecodeError."""
        if not hasattr(self, "_json"):
            self._json = decode_json(await self.body())
        return self._json


def decode_json(text: str | bytes) -> Any:
    """JSON of which no object names a member twice, or very many. Raises json.JSONDecodeError."""
    try:
        return json.loads(text, object_pairs_hook=_members)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None


def front_router(**options: Any) -> APIRouter:
    """A router of `FrontRoute`s."""
    return APIRouter(route_class=FrontRoute, **options)


def _refuse_method(paths: Paths, request: Request) -> None:
    """Raises HTTPException 405, as routing does; `service.api.problems` adds `Allow`."""
    if paths.is_hidden(path_of(request.scope), request.method):
        raise HTTPException(405)


def _largest(settings: Settings, path: str, content_type: str) -> int:
    """Most bytes of a body of this kind, of the route with this path."""
    kind, intake = media_type(content_type), settings.intake
    forms = {
        "/samples": intake.max_bytes + FORM_OVERHEAD,
        "/samples/batch": intake.max_request_bytes,
        "/predict": intake.max_request_bytes,
    }
    if kind == "multipart/form-data":
        return forms.get(path, settings.http.max_body_bytes)
    takes_raw = path in ("/samples", "/predict") and is_raw_image(kind)
    return intake.max_bytes if takes_raw else settings.http.max_body_bytes


async def _refuse_unknown_fields(request: Request) -> None:
    """A dependency of every route: FastAPI has read the form by then, and keeps it."""
    route = request.scope["route"]
    if isinstance(route, FrontRoute) and (known := route.form_fields):
        form = await request.form()
        _refuse_unknown("body", form.multi_items(), known)


def _refuse_unknown(place: str, given: Iterable[tuple[str, Any]], known: Mapping[str, bool]) -> None:
    """Raises RequestValidationError naming each that is not known, or comes more often than it may."""
    errors = (
        {"type": "unknown", "loc": (place, name[:64]), "msg": message, "input": None}
        for name, count in Counter(name for name, _ in given).items()
        if (message := _complaint(name, count, known)) is not None
    )
    if first := list(islice(errors, MOST_FIELDS)):  # of thousands, the rest is not even compared with what is known
        raise RequestValidationError(first)


def _complaint(name: str, count: int, known: Mapping[str, bool]) -> str | None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        return f"Nothing is known by this name; did you mean `{near[0]}`?" if near else "Nothing is known by this name"
    return f"Given {count} times; once is meant" if count > 1 and not known[name] else None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_MEMBERS:
        raise json.JSONDecodeError(f"an object has more than {MOST_MEMBERS} members", "", 0)
    members = dict(pairs)
    if len(members) == len(pairs):  # counting takes ten times as long, and a body may have many thousands of objects
        return members
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise json.JSONDecodeError(f"`{name[:64]}` is given {count} times; once is meant", "", 0)
    return members


def _scopes(need: params.Depends) -> Sequence[str]:
    return need.scopes or () if isinstance(need, params.Security) and need.dependency is check_key else ()


def _tree(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _tree(inner)


def _query_fields(dependant: Dependant) -> list[Any]:
    return [field for each in _tree(dependant) for field in each.query_params]


def _names(fields: Iterable[Any]) -> Iterator[str]:
    """Of parameters; of a model of parameters, those of its fields."""
    for field in fields:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (inner.alias or name for name, inner in kind.model_fields.items())
        else:
            yield field.alias


def _is_list(annotation: Any) -> bool:
    choices = [choice for choice in get_args(annotation) or (annotation,) if choice is not NoneType]
    return get_origin(annotation) is list or any(get_origin(choice) is list for choice in choices)

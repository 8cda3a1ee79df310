"""Dependencies of routes: the running service, and a key with the right scope."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Header, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import AfterValidator

from service.api.key_checks import KeyChecks
from service.api.threads import Threads
from service.core.context import Context
from service.core.idempotency import LONGEST_KEY, one_spelling
from service.core.reconciler import Reconciler
from service.errors import Invalid, Unavailable
from service.serving.adapted import AdaptedTier
from service.serving.batcher import Batcher
from service.serving.closed_form import ClosedFormTier
from service.serving.closed_form_updater import ClosedFormUpdater
from service.serving.engine import Engine
from service.serving.held_out import HeldOut
from service.serving.ingest import Ingest
from service.serving.jobs import Job, Outcome
from service.serving.preprocess import Preprocessor
from service.serving.quality import Quality
from service.serving.quality_updater import QualityUpdater


@dataclass(frozen=True)
class Service:
    """The parts of a running API process."""

    context: Context
    engine: Engine
    lanes: ThreadPoolExecutor
    closed_form: ClosedFormTier | None
    updater: ClosedFormUpdater | None
    adapted: AdaptedTier | None
    adapted_updater: ClosedFormUpdater | None
    quality: QualityUpdater[Quality] | None
    held_out: QualityUpdater[HeldOut] | None
    batcher: Batcher[Job, Outcome]
    preprocessor: Preprocessor
    ingest: Ingest
    intake_threads: Threads
    key_checks: KeyChecks
    reconciler: Reconciler

    def erasure_accepted(self) -> None:
        """Wake updater and reconciler after an erasure was committed: its bytes wait for every replica to take note."""
        for updater in (self.updater, self.adapted_updater):
            if updater is not None:
                updater.wake()
        self.reconciler.wake()


async def running_service(request: Request) -> Service:  # async: a plain one would cost a thread at every request
    """The service, once it is warm. Raises Unavailable before."""
    service: Service | None = request.app.state.service
    if service is None:
        raise Unavailable("The service is warming up.", retry_after=2)
    return service


Running = Annotated[Service, Depends(running_service)]

bearer = HTTPBearer(auto_error=False, description="An API key: `oubli keys create`, or `DATA/admin-key`.")


async def admit(request: Request, scopes: Sequence[str]) -> None:
    """Check the caller's key, before anything of the body is read. Raises Unavailable, Unauthorized or Forbidden."""
    if scopes:
        await _look_up(request, await running_service(request), await bearer(request), scopes)
        request.scope["oubli_admitted"] = frozenset(scopes)


async def check_key(
    request: Request,
    service: Running,
    scopes: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> None:
    """The scope check of a route: done already by `admit` on every `FrontRoute`; done here on any other."""
    if not request.scope.get("oubli_admitted", frozenset()).issuperset(scopes.scopes):
        await _look_up(request, service, credentials, scopes.scopes)


async def _look_up(
    request: Request, service: Service, credentials: HTTPAuthorizationCredentials | None, scopes: Sequence[str]
) -> None:
    if service.context.settings.auth:
        key = await service.key_checks.check(credentials.credentials if credentials is not None else None, scopes)
        request.scope["oubli_key_id"] = key.id


def scope(name: str) -> Any:
    """A dependency: the caller's key has this scope, or `admin`."""
    return Security(check_key, scopes=[name])


def located(request: Request, path: str) -> str:
    """A path of this service as the caller sees it, behind its proxy."""
    return f"{request.scope.get('root_path', '')}{path}"


def credential(request: Request) -> str:
    """The bearer credential of a request, by which callers take turns; one a key, however its scheme is spelt."""
    given = request.headers.get("authorization", "")
    scheme, key = get_authorization_scheme_param(given)
    return f"Bearer {key}" if scheme.lower() == "bearer" else given


def idempotency_header(made: str) -> Any:
    """`Idempotency-Key`, of a request that makes such a thing. Its length is checked once its text is normalised."""
    lengths = {"minLength": 1, "maxLength": LONGEST_KEY}
    return Header(description=f"Repeat safely: one key, one {made}.", json_schema_extra=lengths)


def _usable(key: str | None) -> str | None:
    """The `Idempotency-Key` as it came. Refused also where nothing is made, as by a quote: it is not to be ignored."""
    try:
        if key is not None:
            one_spelling(key)
    except Invalid as error:
        raise ValueError(error.detail) from None
    return key


IdempotencyKey = Annotated[str | None, AfterValidator(_usable)]


def key_id(request: Request) -> str | None:
    """Id of the API key that this request is charged to; None where none is asked for."""
    key_id: str | None = request.scope.get("oubli_key_id")
    return key_id


async def _sent_in_utf8(request: Request) -> None:
    for place, escaped in (("path", request.scope["raw_path"]), ("query", request.scope["query_string"])):
        try:
            unquote_to_bytes(escaped).decode()
        except UnicodeDecodeError:
            raise Invalid(f"The {place} is not in UTF-8.") from None


IN_UTF8 = Depends(_sent_in_utf8)  # other bytes would all be read as U+FFFD, and two owners as one


@dataclass(frozen=True)
class Paging:
    """Parameters of a list: its page, and the page's length."""

    limit: Annotated[int, Query(ge=1, le=200, description="Most items in the answer.")] = 50
    cursor: Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")] = None


PagingParameters = Annotated[Paging, Depends()]

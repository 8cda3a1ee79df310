"""The route that Prometheus scrapes. It answers whatever state the registry is in."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import Depends, Request, Response, Security
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client.exposition import choose_encoder

from service.api.deps import Running, bearer
from service.api.front import front_router
from service.api.key_checks import reason_of
from service.api.metrics import Patient
from service.api.problems import responses
from service.clock import system_clock
from service.core import access
from service.errors import Forbidden, Unauthorized, Unavailable
from service.registry.records import ApiKey

log = logging.getLogger(__name__)

router = front_router(tags=["operations"])

TRUSTED_SECONDS = 3600.0  # a key that has scraped may scrape on for so long while the registry cannot be asked
MOST_TRUSTED = 100
MOST_ASKING = 4


class Gate:
    """Decides who may scrape: by the registry, and while that is away, by keys that were accepted before.

    Keys are remembered as digests. One that is revoked is refused as soon as the registry answers again.
    """

    def __init__(self) -> None:
        self._admitted: dict[str, float] = {}  # digest of a key: when it was last let in, monotonic seconds
        self._free = BoundedSemaphore(MOST_ASKING)

    def check(self, service: Running, secret: str | None) -> None:
        """Raises Unauthorized, Forbidden or Unavailable."""
        digest = hashlib.sha256((secret or "").encode()).hexdigest()
        try:
            key = self._ask(service, secret)
        except (Unauthorized, Forbidden):
            self._admitted.pop(digest, None)
            raise
        except Exception:
            if time.monotonic() - self._admitted.get(digest, -TRUSTED_SECONDS) >= TRUSTED_SECONDS:
                raise Unavailable("The registry does not answer, so keys cannot be checked.") from None
            return
        while len(self._admitted) >= MOST_TRUSTED:
            self._admitted.pop(next(iter(self._admitted)))
        self._admitted[digest] = time.monotonic()
        self._note(service, key)

    def _note(self, service: Running, key: ApiKey) -> None:
        """When it was last used; a scrape does not wait for that to be written."""
        now = system_clock()
        if access.use_is_news(key, now):
            arguments, told = (service.context.registry, [key.id]), {"now": now}
            threading.Thread(target=access.note_use, args=arguments, kwargs=told, name="scraped", daemon=True).start()

    def _ask(self, service: Running, secret: str | None) -> ApiKey:
        """The registry, for no longer than a scrape can wait; it is not asked again while enough questions hang."""
        if not self._free.acquire(blocking=False):
            raise TimeoutError

        def ask() -> ApiKey:
            try:
                return access.check(service.context.registry, secret, ["read"])
            finally:
                self._free.release()

        return Patient(ask).answer()


def _may_scrape(
    service: Running, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    if service.context.settings.auth:
        gate: Gate = request.app.state.gate
        try:
            gate.check(service, credentials.credentials if credentials is not None else None)
        except (Unauthorized, Forbidden) as error:
            request.app.state.metrics.key_refused(reason_of(error))
            raise


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Security(_may_scrape, scopes=["read"])],
    responses=responses(503),
    summary="Prometheus metrics",
)
def metrics(request: Request) -> Response:
    """Of this process and of the registry (docs/ops). OpenMetrics for those who accept it.

    While the registry is away, what it would say is missing, and `oubli_registry_up` is 0.
    """
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics.registry), media_type=media_type)

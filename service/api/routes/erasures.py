"""Routes of erasures: accepting them, and following their progress."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any
from uuid import UUID

from fastapi import Path, Query, Request, Response, status

from service.api.deps import (
    IN_UTF8,
    IdempotencyKey,
    PagingParameters,
    Running,
    Service,
    credential,
    idempotency_header,
    key_id,
    located,
    scope,
)
from service.api.front import front_router
from service.api.middleware import Arrival
from service.api.problems import BODY, responses
from service.api.schemas.common import OWNER, Listing, OwnerSought
from service.api.schemas.erasures import (
    Erasure,
    ErasureQuote,
    ErasureRequest,
    State,
    erasure_of,
    quote_of,
)
from service.core import erasure
from service.core.idempotency import once, request_digest
from service.errors import NotFound
from service.registry import erasures, records

log = logging.getLogger(__name__)

router = front_router(tags=["erasures"], dependencies=[IN_UTF8])

ACCEPTED: dict[str, Any] = {
    "status_code": status.HTTP_202_ACCEPTED,
    "response_model": Erasure,
    "dependencies": [scope("erase")],
}


def _accepted(service: Service, request: Request, response: Response, record: records.Erasure) -> Erasure:
    arrival: Arrival = request.scope["oubli_arrival"]
    if record.accepted_at >= arrival.at:  # not one that an earlier request had been accepted for
        request.app.state.metrics.withdraw_seconds.observe(time.perf_counter() - arrival.ticks)
    log.info(
        "erasure %s is accepted: %d samples are forgotten", record.id, record.samples, extra={"erasure": record.id}
    )
    service.erasure_accepted()
    response.headers["Location"] = located(request, f"/erasures/{record.id}")
    response.headers["Retry-After"] = "2"
    return erasure_of(record)


@router.delete("/samples/{sample_id}", **ACCEPTED, responses=responses(404, 429, 503, 507), summary="Forget one sample")
def delete_sample(service: Running, request: Request, response: Response, sample_id: UUID) -> Erasure:
    """From this answer on no prompt that has seen the sample is used. Repeated while it runs: the same erasure."""
    record = erasure.erase_sample(service.context, str(sample_id), key_id=key_id(request))
    return _accepted(service, request, response, record)


@router.delete(
    "/owners/{owner:path}",
    **ACCEPTED,
    responses=responses(404, 429, 503, 507),
    summary="Forget everything one owner ever gave",
)
def delete_owner(
    service: Running,
    request: Request,
    response: Response,
    owner: Annotated[OwnerSought, Path(**OWNER)],
) -> Erasure:
    """All of it in one transaction."""
    record = erasure.erase_owner(service.context, owner, key_id=key_id(request))
    return _accepted(service, request, response, record)


@router.post(
    "/erasures",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Erasure | ErasureQuote,
    dependencies=[scope("erase")],
    responses={
        200: {"model": ErasureQuote, "description": "With `validate_only`: what it would cost."},
        **responses(*BODY, 404, 409, 429, 503, 507),
    },
    summary="Forget several samples, or ask what that would cost",
)
def create_erasure(
    service: Running,
    request: Request,
    response: Response,
    body: ErasureRequest,
    idempotency_key: Annotated[IdempotencyKey, idempotency_header("erasure")] = None,
) -> Erasure | ErasureQuote:
    """All or none: if one sample is not on record, nothing is erased."""
    ids = [str(sample_id) for sample_id in body.samples or ()]
    owner = body.owner
    if body.validate_only:
        response.status_code = status.HTTP_200_OK
        return quote_of(erasure.quote(service.context, sample_ids=ids, owner=owner))
    digest, charged = request_digest(body.model_dump_json().encode()), key_id(request)
    with once(service.context, "POST /erasures", idempotency_key, digest, caller=credential(request)) as ticket:
        if ticket.resource_id is not None:
            record = _get(service, ticket.resource_id)
        elif owner is not None:
            record = erasure.erase_owner(service.context, owner, key_id=charged, idempotency_key=ticket.key_digest)
        else:
            record = erasure.erase_samples(service.context, ids, key_id=charged, idempotency_key=ticket.key_digest)
    return _accepted(service, request, response, record)


@router.get(
    "/erasures/{erasure_id}",
    response_model=Erasure,
    dependencies=[scope("read")],
    responses=responses(404, 503),
    summary="Follow an erasure",
)
def get_erasure(service: Running, erasure_id: UUID) -> Erasure:
    """withdrawn → completed; failed is visible, and tried again. Retraining does not keep it from being completed."""
    return erasure_of(_get(service, str(erasure_id)))


def _get(service: Service, erasure_id: str) -> records.Erasure:
    with service.context.registry.read() as session:
        record = erasures.get(session, erasure_id)
    if record is None:
        raise NotFound(f"There is no erasure {erasure_id}.")
    return record


@router.get(
    "/erasures",
    response_model=Listing[Erasure],
    dependencies=[scope("read")],
    responses=responses(503),
    summary="List erasures",
)
def list_erasures(
    service: Running,
    paging: PagingParameters,
    state: Annotated[State | None, Query()] = None,
    owner: Annotated[OwnerSought | None, Query(description="Erasures of everything that this owner ever gave.")] = None,
) -> Listing[Erasure]:
    """Newest first. An erasure of single samples is on record without an owner, and is found by none."""
    with service.context.registry.read() as session:
        page = erasures.page(session, limit=paging.limit, cursor=paging.cursor, state=state, owner=owner)
    return Listing(items=[erasure_of(record) for record in page.items], next_cursor=page.next_cursor)

"""Is it alive, is it ready, how is it doing."""

from __future__ import annotations

import logging
from collections import Counter

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import PlainTextResponse
from prometheus_client import generate_latest

from service.api.deps import Running, Service, scope
from service.api.problems import responses
from service.api.schemas.model import BackboneStatus, ClosedFormStatus, Live, Ready, Status, WorkerStatus
from service.core.states import cluster_state
from service.registry import clusters, erasures, samples, state, workers

log = logging.getLogger(__name__)

router = APIRouter(tags=["operations"])


@router.get("/health/live", response_model=Live, summary="Is the process alive?")
async def live() -> Live:
    """No key needed; touches nothing."""
    return Live()


@router.get(
    "/health/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Not ready; the body says what is missing."}},
    summary="Can it do its work?",
)
def ready(request: Request, response: Response) -> Ready:
    """No key needed. Ready: schema migrated, backbone warm, a worker heard from."""
    service: Service | None = request.app.state.service
    checks = {"migrated": False, "backbone": service is not None, "worker": False}
    if service is not None:
        context = service.context
        try:
            checks["migrated"] = context.registry.is_current()
            with context.registry.read() as session:
                now, fresh = context.clock(), context.settings.worker.fresh
                checks["worker"] = any(worker.is_alive(now, fresh) for worker in workers.every(session))
        except Exception:  # whatever the database's reason: not ready, and no detail for strangers
            log.exception("the registry does not answer")
    good = all(checks.values())
    response.status_code = status.HTTP_200_OK if good else status.HTTP_503_SERVICE_UNAVAILABLE
    return Ready(status="ok" if good else "not ready", **checks)


@router.get(
    "/status",
    response_model=Status,
    dependencies=[scope("read")],
    responses=responses(503),
    summary="The service at a glance",
)
def get_status(service: Running) -> Status:
    """Counts and states, and who is at work."""
    context = service.context
    now, attempts = context.clock(), context.settings.training.attempts
    summary = service.closed_form.summary() if service.closed_form is not None else None
    with context.registry.read() as session:
        held = clusters.every(session)
        unfinished = erasures.unfinished(session)
        oldest = min((erasure.accepted_at for erasure in unfinished), default=None)
        crew = workers.every(session)
        return Status(
            samples=samples.count(session),
            owners=samples.count_owners(session),
            clusters=dict(Counter(cluster_state(c, now=now, attempts=attempts) for c in held)),
            erasures=erasures.counts(session),
            queue_age_seconds=(now - oldest).total_seconds() if oldest is not None else None,
            workers=[
                WorkerStatus(
                    name=worker.name,
                    device=worker.device,
                    queues=list(worker.queues),
                    heartbeat_at=worker.beat_at,
                    alive=worker.is_alive(now, context.settings.worker.fresh),
                    heard_at=worker.heard_at,
                    claimed_at=worker.claimed_at,
                )
                for worker in crew
            ],
            backbone=BackboneStatus(
                name=context.backbone.name,
                digest=context.backbone.digest,
                dim=context.backbone.dim,
                input_size=context.backbone.input_size,
            ),
            device=context.settings.device,
            serving_epoch=state.epoch(session),
            closed_form=ClosedFormStatus(digest=summary[0], samples=summary[1]) if summary is not None else None,
        )


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[scope("read")],
    responses=responses(503),
    summary="Prometheus metrics",
)
def metrics(request: Request) -> PlainTextResponse:
    """Requests and their seconds by route, of this process."""
    text = generate_latest(request.app.state.metrics).decode()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

"""Is it alive, is it ready, how is it doing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from fastapi import APIRouter, Request, Response, status

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
async def ready(request: Request, response: Response) -> Ready:
    """No key needed. Ready: schema migrated, backbone warm, a worker heard from, and not about to stop."""
    service: Service | None = request.app.state.service
    # Not on the threads that requests wait for: a proxy takes a late answer for a dead replica.
    migrated, worker = await asyncio.to_thread(_ask_registry, service) if service is not None else (False, False)
    draining = request.app.state.draining
    serving = service is not None and migrated and not draining
    good = serving and worker
    response.status_code = status.HTTP_200_OK if good else status.HTTP_503_SERVICE_UNAVAILABLE
    return Ready(
        status="draining" if draining else "ok" if good else "not ready",
        migrated=migrated,
        backbone=service is not None,
        worker=worker,
        draining=draining,
        serving=serving,
    )


def _ask_registry(service: Service) -> tuple[bool, bool]:
    """(has this release's schema, a worker is alive)."""
    context, migrated = service.context, False
    try:
        migrated = context.registry.is_current()
        with context.registry.read() as session:
            now, fresh = context.clock(), context.settings.worker.fresh
            return migrated, any(worker.is_alive(now, fresh) for worker in workers.every(session))
    except Exception:  # whatever the database's reason: not ready, and no detail for strangers
        log.exception("the registry does not answer")
        return migrated, False


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
        oldest = erasures.oldest_unfinished(session)
        crew = workers.every(session)
        return Status(
            samples=sum(cluster.samples for cluster in held),
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

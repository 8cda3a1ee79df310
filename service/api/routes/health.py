"""Routes of health: alive, ready, and the status of the service."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from anyio import move_on_after
from anyio.to_thread import current_default_thread_limiter
from fastapi import Request, Response, status

from service.api.deps import Running, Service, scope
from service.api.front import front_router
from service.api.problems import described, responses
from service.api.schemas.model import BackboneStatus, ClosedFormStatus, Live, Ready, Status, WorkerStatus
from service.registry import clusters, erasures, evaluation, samples, state, workers
from service.registry.states import cluster_state
from service.serving.closed_form import ClosedFormTier

log = logging.getLogger(__name__)

router = front_router(tags=["operations"])

STARVED_SECONDS = 1.0  # a replica whose requests wait longer for a thread is not ready


class Readiness:
    """Answers readiness probes with one question to the registry at a time, however many probes wait for it."""

    def __init__(self) -> None:
        self._asked: asyncio.Task[tuple[bool, bool]] | None = None

    async def ask(self, service: Service) -> tuple[bool, bool]:
        """(has this release's schema, a worker is alive)."""
        # Not on the threads that requests wait for: a proxy takes a late answer for a dead replica.
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(asyncio.to_thread(_ask_registry, service))
        return await asyncio.shield(self._asked)


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Live, responses=described(422), summary="Is the process alive?")
async def live() -> Live:
    """No key needed; touches nothing."""
    return Live()


@router.head("/health/ready", include_in_schema=False)
@router.get(
    "/health/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Not ready; the body says what is missing."}, **described(422)},
    summary="Can it do its work?",
)
async def ready(request: Request, response: Response) -> Ready:
    """No key needed. Ready: schema migrated, backbone warm, a worker heard from, threads free, not about to stop."""
    service: Service | None = request.app.state.service
    readiness: Readiness = request.app.state.readiness
    free, (migrated, worker) = await asyncio.gather(
        _threads_are_free(), readiness.ask(service) if service is not None else _nothing_known()
    )
    draining = request.app.state.draining
    serving = service is not None and migrated and free and not draining
    good = serving and worker
    response.status_code = status.HTTP_200_OK if good else status.HTTP_503_SERVICE_UNAVAILABLE
    return Ready(
        status="draining" if draining else "ok" if good else "not ready",
        migrated=migrated,
        backbone=service is not None,
        worker=worker,
        threads=free,
        draining=draining,
        serving=serving,
    )


async def _threads_are_free() -> bool:
    """Whether an erasure or a look-up that came now would soon be begun."""
    with move_on_after(STARVED_SECONDS):
        async with current_default_thread_limiter():
            return True
    return False


async def _nothing_known() -> tuple[bool, bool]:
    return False, False


def _ask_registry(service: Service) -> tuple[bool, bool]:
    """(has this release's schema, a worker is alive)."""
    context, migrated = service.context, False
    try:
        migrated = context.registry.is_current()
        with context.registry.read() as session:
            now, fresh = context.clock(), context.settings.worker.fresh
            return migrated, any(worker.is_alive(now, fresh) for worker in workers.every(session))
    except Exception:  # whatever the database's reason: not ready, and no detail without a key
        log.exception("the registry does not answer")
        return migrated, False


@router.get(
    "/status",
    response_model=Status,
    dependencies=[scope("read")],
    responses=responses(503),
    summary="Status of the service",
)
def get_status(service: Running) -> Status:
    """Counts by state, and the workers."""
    context = service.context
    now, attempts = context.clock(), context.settings.training.attempts
    closed_form = _closed_form(service.closed_form) if service.closed_form is not None else None
    with context.registry.read() as session:
        existing = clusters.every(session)
        oldest = erasures.oldest_unfinished(session)
        known_workers = workers.every(session)
        return Status(
            samples=sum(cluster.samples for cluster in existing),
            evaluation_samples=evaluation.count(session),
            owners=samples.count_owners(session),
            clusters=dict(Counter(cluster_state(c, now=now, attempts=attempts) for c in existing)),
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
                for worker in known_workers
            ],
            backbone=BackboneStatus(
                name=context.backbone.name,
                digest=context.backbone.digest,
                dim=context.backbone.dim,
                input_size=context.backbone.input_size,
            ),
            device=context.settings.device,
            serving_epoch=state.epoch(session),
            closed_form=closed_form,
        )


def _closed_form(tier: ClosedFormTier) -> ClosedFormStatus | None:
    summary = tier.summary()
    if summary is None:
        return None
    solved = tier.current()
    return ClosedFormStatus(
        digest=summary.digest,
        samples=summary.samples,
        head=solved.head_name if solved else None,
        ridge=summary.choice.ridge,
        temperature=summary.choice.temperature,
        chosen_from=summary.choice.samples,
        settled=summary.settled,
    )

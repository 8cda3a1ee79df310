"""The ASGI application: `create_app(settings)`. Nothing is loaded before its lifespan begins."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from models.embedding import BATCH, SHAPES
from service import tracing
from service.api import docs, problems
from service.api.bodies import BodyLimit
from service.api.deps import Service
from service.api.key_checks import KeyChecks
from service.api.metrics import Collector, Metrics
from service.api.middleware import (
    ConnectionDraining,
    HeadLimit,
    RequestId,
    RequestMetrics,
    RequestTrace,
    RootPath,
    SafeHeaders,
)
from service.api.paths import Paths
from service.api.routes import erasures, health, keys, metrics, model, predict, quality, samples
from service.api.routes.health import Readiness
from service.api.routes.metrics import Gate
from service.api.threads import Threads
from service.core.context import Context
from service.core.environment import configure
from service.core.opening import open_context
from service.core.reconciler import Reconciler
from service.core.stats import collect
from service.decoding.decoders import Decoders
from service.loading import loading
from service.messaging.notifier import Notifier
from service.serving.batcher import Batcher
from service.serving.closed_form import ClosedFormTier, replica_name
from service.serving.closed_form_updater import ClosedFormUpdater
from service.serving.engine import Engine
from service.serving.held_out import HeldOut
from service.serving.ingest import Ingest
from service.serving.lanes import limits, make_lanes, portion
from service.serving.preprocess import AT_ONCE, Preprocessor, rules
from service.serving.quality import Quality
from service.serving.quality_updater import QualityUpdater
from service.settings import Settings

log = logging.getLogger(__name__)

FIRST_SHAPES = (1, BATCH)  # images of a batch: a single query, and a batch of new samples; other shapes can wait
ROUTES = (samples, erasures, predict, model, quality, keys, health, metrics)


def create_app(settings: Settings) -> FastAPI:
    """The application with these settings."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_warm_up(app, settings))
        try:
            yield
        finally:
            await asyncio.gather(loading, return_exceptions=True)
            if app.state.service is not None:
                await _shut_down(app.state.service)
            await asyncio.to_thread(tracing.stop)

    app = FastAPI(
        title="Oubli",
        version="0.1.0",
        summary="Unlearning as a service: a classifier that can take any contribution back, exactly.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # `service.api.docs` shows it, strict about parameters like every other route
        redirect_slashes=False,  # a redirection would repeat whatever `Host` the caller has sent
        # FastAPI's own would record paths and queries, which hold owners and labels, once an environment turns it on.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.settings = settings
    app.state.service = None
    app.state.failure = None
    app.state.draining = False  # told to stop, and still answering
    app.state.give_up = _end_process
    app.state.metrics = Metrics()
    app.state.gate = Gate()
    app.state.readiness = Readiness()
    problems.install(app)
    routers = [routes.router for routes in ROUTES]
    for router in routers:
        app.include_router(router)
    docs.describe(app)
    if settings.http.docs:
        routers.append(docs.install(app))
    app.state.paths = Paths([*(route for router in routers for route in router.routes), *app.routes])
    _add_middleware(app, settings)
    _build_routes(app)
    return app


def _build_routes(app: FastAPI) -> None:
    """Make FastAPI build its routes now, in one thread; it would build each one at the route's first request.

    While FastAPI builds, it suppresses warnings of the whole process; two threads that do so at once would lose each
    other's filters.
    """
    nowhere = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": [], "query_string": b""}
    for route in app.routes:
        route.matches(dict(nowhere))


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the middleware, innermost first."""
    app.add_middleware(RequestMetrics, metrics=app.state.metrics)
    app.add_middleware(BodyLimit, limits=settings.http)
    app.add_middleware(HeadLimit, limits=settings.http)
    if settings.tracing:
        app.add_middleware(RequestTrace)
    app.add_middleware(ConnectionDraining)
    app.add_middleware(SafeHeaders)
    app.add_middleware(RequestId)
    app.add_middleware(RootPath, root_path=settings.http.root_path)


async def _warm_up(app: FastAPI, settings: Settings) -> None:
    """Load and warm everything outside the event loop; /health/live answers meanwhile."""
    try:
        app.state.service = await asyncio.to_thread(_open, settings, app.state.metrics)
    except Exception as error:
        app.state.failure = error
        app.state.give_up()  # the server ends; its starter reads app.state.failure
        return
    app.state.service.batcher.start()
    app.state.service.reconciler.start()
    if app.state.service.updater is not None:
        app.state.service.updater.start()
    if app.state.service.quality is not None:
        app.state.service.quality.start()
    if app.state.service.held_out is not None:
        app.state.service.held_out.start()


def _end_process() -> None:
    """Stop the process with SIGTERM: the default of `give_up`. uvicorn raises the signal again once it has ended."""
    os.kill(os.getpid(), signal.SIGTERM)


def _open(settings: Settings, metrics: Metrics) -> Service:
    with loading():
        return _load(settings, metrics)


def _load(settings: Settings, metrics: Metrics) -> Service:
    configure(settings, threads=settings.serving.threads)
    context = open_context(settings)
    decoders = Decoders(rules(settings, context.backbone.input_size), most=AT_ONCE)
    tier = ClosedFormTier(context, name=replica_name()) if settings.closed_form.enabled else None
    if tier is not None:
        tier.start()
    engine = Engine(context, tier)
    quality = _quality(context, tier)
    held_out = _held_out(context, tier, quality)

    def let_go() -> None:
        """Withdrawn prompts and what knows removed samples leave the memory before an erasure can be completed."""
        engine.refresh()
        if quality is not None:
            quality.quality.forget()

    if tier is not None:
        tier.before_report = let_go
    if tier is not None and held_out is not None:
        tier.let_go = held_out.quality.let_go
    lanes = make_lanes(settings)
    lanes.submit(engine.warm_up, FIRST_SHAPES).result()
    lanes.submit(engine.warm_up, [shape for shape in SHAPES if shape not in FIRST_SHAPES])  # beside first requests
    updater = ClosedFormUpdater(tier, settings.worker.heartbeat_seconds) if tier is not None else None

    def look_again() -> None:
        """Refresh the engine's snapshot, also while no request comes, and the closed-form tier."""
        engine.refresh()
        if updater is not None:
            updater.wake()

    reconciler = Reconciler(context, Notifier(settings), afterwards=look_again)
    if updater is not None:
        updater.afterwards = reconciler.wake
    batcher = Batcher(engine.run, limits(settings), executor=lanes, portion=portion(settings), observed=metrics.batch)
    measured = quality.quality.current if quality is not None else lambda: None
    evaluated = held_out.quality.current if held_out is not None else lambda: None
    quick_seconds = (lambda: tier.quick_seconds) if tier is not None else lambda: 0.0
    metrics.registry.register(
        Collector(lambda: collect(context), lambda: engine.epoch, batcher, measured, evaluated, quick_seconds)
    )
    preprocessor = Preprocessor(context, batcher, decoders)
    return Service(
        context=context,
        engine=engine,
        lanes=lanes,
        closed_form=tier,
        updater=updater,
        quality=quality,
        held_out=held_out,
        batcher=batcher,
        preprocessor=preprocessor,
        ingest=Ingest(context, preprocessor, recorded=reconciler.wake),
        intake_threads=Threads(
            settings.intake.threads,
            waiting=settings.intake.max_waiting,
            seconds=settings.serving.deadline_seconds,
        ),
        key_checks=KeyChecks(context.registry, refused=metrics.key_refused),
        reconciler=reconciler,
    )


def _quality(context: Context, tier: ClosedFormTier | None) -> QualityUpdater[Quality] | None:
    """None where nothing is to be computed by leave-one-out: no report, and nothing to choose."""
    chooses = context.closed_form.chooses_ridge or context.closed_form.chooses_temperature
    if tier is None or not (context.settings.quality.enabled or chooses):
        return None
    return QualityUpdater(Quality(context, tier), context.settings)


def _held_out(
    context: Context, tier: ClosedFormTier | None, quality: QualityUpdater[Quality] | None
) -> QualityUpdater[HeldOut] | None:
    if tier is None or quality is None or not context.settings.quality.enabled:
        return None
    return QualityUpdater(HeldOut(context, tier), context.settings, turn=quality.turn)


async def _shut_down(service: Service) -> None:
    await service.batcher.stop()
    await service.key_checks.finish()
    if service.quality is not None:
        await asyncio.to_thread(service.quality.stop)
    if service.held_out is not None:
        await asyncio.to_thread(service.held_out.stop)
    if service.updater is not None:
        await asyncio.to_thread(service.updater.stop)
    await asyncio.to_thread(service.preprocessor.stop)
    await asyncio.to_thread(service.reconciler.stop)
    service.lanes.shutdown(wait=True)
    if service.closed_form is not None:
        service.closed_form.leave()
    service.context.registry.close()

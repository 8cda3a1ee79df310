"""Routes of the model: clusters, labels, partition."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from fastapi import Request, Response, status

from service.api.deps import PagingParameters, Running, Service, located, scope
from service.api.front import front_router
from service.api.problems import responses
from service.api.schemas.common import Listing
from service.api.schemas.model import Cluster, Partition, ServedPrompt
from service.api.schemas.samples import LabelCount
from service.core import layouts
from service.core.states import cluster_state
from service.errors import Conflict, NotFound
from service.registry import clusters, layout_state, leases, prompts, records, samples

router = front_router(tags=["model"], dependencies=[scope("read")])


def _render(service: Service, found: Sequence[records.Cluster]) -> list[Cluster]:
    context = service.context
    with context.registry.read() as session:
        built = prompts.get(session, [c.serving_key for c in found if c.serving_key is not None])
        labels = samples.cluster_labels(session, [cluster.id for cluster in found])
    now, attempts = context.clock(), context.settings.training.attempts
    return [
        Cluster(
            id=UUID(cluster.id),
            samples=cluster.samples,
            labels=labels[cluster.id],
            state=cluster_state(cluster, now=now, attempts=attempts),
            prompt=_prompt(built.get(cluster.serving_key or "")),
            failure=cluster.failure,
            retrain_at=cluster.retrain_at,
        )
        for cluster in found
    ]


def _prompt(prompt: records.Prompt | None) -> ServedPrompt | None:
    if prompt is None:
        return None
    return ServedPrompt(
        key=prompt.key,
        digest=prompt.digest,
        trained_at=prompt.trained_at,
        members=prompt.members,
        sample_epochs=prompt.sample_epochs,
        seconds=prompt.seconds,
    )


@router.get("/clusters", response_model=Listing[Cluster], responses=responses(503), summary="List clusters")
def list_clusters(service: Running, paging: PagingParameters) -> Listing[Cluster]:
    """Oldest first."""
    with service.context.registry.read() as session:
        page = clusters.page(session, limit=paging.limit, cursor=paging.cursor)
    return Listing(items=_render(service, page.items), next_cursor=page.next_cursor)


@router.get(
    "/clusters/{cluster_id}",
    response_model=Cluster,
    responses=responses(404, 503),
    summary="Look a cluster up",
)
def get_cluster(service: Running, cluster_id: UUID) -> Cluster:
    """404 once a re-cut has merged it into others."""
    with service.context.registry.read() as session:
        cluster = clusters.get(session, str(cluster_id))
    if cluster is None:
        raise NotFound(f"There is no cluster {cluster_id}.")
    return _render(service, [cluster])[0]


@router.post(
    "/clusters/{cluster_id}/retry",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Cluster,
    dependencies=[scope("admin")],
    responses=responses(404, 409, 503, 507),
    summary="Try a failed training again, now",
)
def retry_cluster(service: Running, request: Request, response: Response, cluster_id: UUID) -> Cluster:
    """Forgets failed tries, setbacks by deletions, and their pause. 409 if there are none: nothing is to be tried."""
    context = service.context
    with context.registry.write() as session:
        retried = leases.retry(session, str(cluster_id))
        cluster = clusters.get(session, str(cluster_id))
    if cluster is None:
        raise NotFound(f"There is no cluster {cluster_id}.")
    if not retried:
        raise Conflict(f"No training of cluster {cluster_id} has failed, and none was put off.")
    service.reconciler.wake()
    response.headers["Location"] = located(request, f"/clusters/{cluster_id}")
    response.headers["Retry-After"] = "2"
    return _render(service, [cluster])[0]


@router.get("/labels", response_model=list[LabelCount], responses=responses(503), summary="List labels")
def list_labels(service: Running) -> list[LabelCount]:
    """Labels exist while a sample has them."""
    with service.context.registry.read() as session:
        return [LabelCount(label=label, samples=count) for label, count in samples.labels(session)]


@router.get("/partition", response_model=Partition, responses=responses(503), summary="How samples are divided")
def get_partition(service: Running) -> Partition:
    """What the settings ask for, and how far it is in force."""
    context = service.context
    with context.registry.read() as session:
        count = len(clusters.every(session))
        record = layout_state.current(session)
        pending = not layouts.is_in_force(context, session)
    layout = layouts.restore(context, record)
    spec = context.partition.spec
    by_distance = spec.kind == "anchors" and spec.clusters is None
    return Partition(
        kind=spec.kind,
        anchors=layout.points if layout is not None else 0,
        clusters=count,
        digest=context.partition.digest,
        distance_threshold=spec.distance_threshold if by_distance else None,
        cap=spec.cap if spec.kind == "tree" else None,
        min=spec.min if spec.kind == "tree" else None,
        layout=record.digest,
        pending=pending,
        failure=record.failure,
    )

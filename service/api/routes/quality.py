"""The route of the model's quality."""

from __future__ import annotations

from service.api.deps import Running, Service, scope
from service.api.front import front_router
from service.api.problems import responses
from service.api.schemas.quality import Evaluation, Quality, evaluation_of, quality_of

router = front_router(tags=["model"], dependencies=[scope("read")])


@router.get("/quality", response_model=Quality, responses=responses(503), summary="How good the model is")
def get_quality(service: Running) -> Quality:
    """Accuracy, calibration and confusion of the closed-form tier: by leave-one-out on the samples that it has learned
    from, and, under `evaluation`, on samples with that role, which it never learns from.

    Both are computed in the background some seconds after the last change, and by each replica for itself.
    """
    evaluation = _evaluation(service)
    if service.quality is None or not service.context.settings.quality.enabled:
        return Quality(state="off", evaluation=evaluation)
    quality = service.quality.quality
    now = quality.marks()
    measured = quality.current(now)
    if measured is None:
        return Quality(state="waiting", evaluation=evaluation)
    return quality_of(measured, now, evaluation)


def _evaluation(service: Service) -> Evaluation:
    if service.held_out is None:
        return Evaluation(state="off")
    held_out = service.held_out.quality
    now = held_out.marks()
    measured = held_out.current(now)
    if measured is not None:
        return evaluation_of(measured, now)
    return Evaluation(state="waiting" if held_out.size() else "none")

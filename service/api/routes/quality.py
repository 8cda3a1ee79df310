"""The route of the model's quality."""

from __future__ import annotations

from service.api.deps import Running, scope
from service.api.front import front_router
from service.api.problems import responses
from service.api.schemas.quality import Quality, quality_of

router = front_router(tags=["model"], dependencies=[scope("read")])


@router.get("/quality", response_model=Quality, responses=responses(503), summary="How good the model is")
def get_quality(service: Running) -> Quality:
    """Accuracy, calibration and confusion of the closed-form tier, by leave-one-out on the samples on record.

    It is computed in the background some seconds after the last change, and by each replica for itself.
    """
    if service.quality is None or not service.context.settings.quality.enabled:
        return Quality(state="off")
    quality = service.quality.quality
    now = quality.marks()
    measured = quality.current(now)
    return quality_of(measured, now) if measured is not None else Quality(state="waiting")

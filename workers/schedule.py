"""What beat rings for: a look at the registry every few seconds, in case every other bell was lost."""

from __future__ import annotations

from celery import Celery

from service.core.doorbell import RECONCILE, TRAIN
from service.settings import Settings


def schedule(app: Celery, settings: Settings) -> None:
    """Set the timer. A message that is not consumed before the next one is due expires."""
    seconds = settings.worker.reconcile_seconds
    app.conf.beat_schedule = {
        "reconcile": {"task": RECONCILE, "schedule": seconds, "options": {"expires": seconds}},
        "train": {"task": TRAIN, "schedule": 2 * seconds, "options": {"expires": 2 * seconds}},
    }

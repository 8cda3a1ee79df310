"""Two tasks without arguments. They only say "look": what there is to do stands in the registry."""

from __future__ import annotations

from celery import Celery

from service.core.broker import RECONCILE, TRAIN
from workers.trainer import Trainer


def register(app: Celery, trainer: Trainer) -> None:
    """Give the application its tasks."""

    @app.task(name=TRAIN)
    def train() -> None:
        trainer.train()

    @app.task(name=RECONCILE)
    def reconcile() -> None:
        trainer.reconcile()

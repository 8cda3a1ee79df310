"""The two Celery tasks, without arguments: a message only says "look", the registry says what there is to do."""

from __future__ import annotations

from celery import Celery, Task

from service.messaging import propagation
from service.messaging.celery_app import RECONCILE, TRAIN
from workers.trainer import Trainer


def register(app: Celery, trainer: Trainer) -> None:
    """Give the application its tasks."""

    @app.task(name=TRAIN, bind=True)
    def train(self: Task[[], None]) -> None:
        with propagation.followed(vars(self.request), TRAIN):
            trainer.train()

    @app.task(name=RECONCILE, bind=True)
    def reconcile(self: Task[[], None]) -> None:
        with propagation.followed(vars(self.request), RECONCILE):
            trainer.reconcile()

"""What beat sends: a notification to look at the registry every few seconds, in case every other one was lost."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from service.messaging.celery_app import RECONCILE, TRAIN, queue_name
from service.messaging.queues import ADDITIONS, DELETIONS
from service.settings import Settings

log = logging.getLogger(__name__)


class Timer(Scheduler):
    """A scheduler that sends on time; a broker that does not answer is logged once, and the connection is made anew."""

    _answers = True

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a notification. Never raises: the next one is seconds away."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # any transport's own errors
            if self._answers:
                log.warning("the broker takes no message (%s); trying on", type(error).__name__)
            self._answers = False
            for name in ("producer", "connection"):  # made again when they are next used
                self.__dict__.pop(name, None)
        else:
            if not self._answers:
                log.info("the broker takes messages again")
            self._answers = True


def schedule(app: Celery, settings: Settings) -> None:
    """Set the timer for each queue: a worker may listen to one only. A message that no worker takes in time expires.

    `reconcile` notifies workers of what it finds.
    """
    seconds = settings.worker.reconcile_seconds
    messages = {RECONCILE: (DELETIONS, seconds), TRAIN: (ADDITIONS, 2 * seconds)}
    app.conf.beat_schedule = {
        task: {"task": task, "schedule": every, "options": {"expires": every, "queue": queue_name(queue)}}
        for task, (queue, every) in messages.items()
    }

"""Celery as a doorbell: a message says "look", never what to do. Losing all of them loses nothing.

Embedded: kombu's filesystem transport, in a folder of the data folder (docs/decisions/0001-embedded-broker.md).
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

from service.core import trail
from service.settings import Settings

log = logging.getLogger(__name__)

TRAIN = "oubli.train"
RECONCILE = "oubli.reconcile"
QUEUE = "oubli"


def make_celery(settings: Settings) -> Celery:
    """A Celery application with our broker and settings, and no tasks of its own."""
    app = Celery("oubli", broker=settings.broker)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=5.0,
        broker_connection_retry_on_startup=True,
        enable_utc=True,
    )
    if settings.broker_url is None:
        app.conf.update(
            broker_transport="service.core.folder_broker:Transport",
            broker_transport_options=_folder(settings),
        )
    else:
        # Redelivery only after every training has ended or lost its lease; no socket hangs for long.
        options = {"visibility_timeout": 3600, "socket_timeout": 5, "socket_connect_timeout": 2}
        app.conf.update(broker_transport_options=options)
    return app


def _folder(settings: Settings) -> dict[str, Any]:
    folder = settings.data_dir.absolute() / "queue"
    (folder / "control").mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.1,
    }


class Doorbell:
    """Rings for workers. Never raises: a bell that does not ring only delays training until the next look."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings)
        if settings.broker_url is not None:
            # A bell is rung fast or not at all; a worker, which waits for messages, has more patience.
            fast = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5, "max_retries": 0}
            self._app.conf.update(broker_connection_timeout=0.5, broker_transport_options=fast)
        self._expires = max(10.0, 2 * settings.worker.reconcile_seconds)

    def ring(self, times: int) -> None:
        """Ask for `times` workers to look for work."""
        for _ in range(times):
            try:
                self._app.send_task(TRAIN, expires=self._expires, retry=False, headers=trail.headers())
            except Exception as error:  # any transport's own connection errors
                log.warning("the broker does not answer (%s); the next look rings again", type(error).__name__)
                return

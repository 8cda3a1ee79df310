"""The Celery application: two queues, and connections that keep trying.

Deletions and additions have a queue each, so that a worker is notified of a deletion first, whatever waits behind it,
and so that some workers can be kept for deletions. What to train is recorded in the registry alone.

Measured with Celery 5.7, kombu 5.7, redis 8.1: their defaults wait up to 30 s between two attempts to connect and give
up after the hundredth; a worker that takes a message while Redis is full dies of it; one whose socket is half-open
waits for 25 s. Messages go to the anonymous exchange, which needs no binding, so FLUSHALL deletes nothing that is
needed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Exchange, Queue

from service import private
from service.messaging.queues import ADDITIONS, QUEUES
from service.settings import Settings

TRAIN = "oubli.train"
RECONCILE = "oubli.reconcile"

LONGEST_PAUSE = 2  # seconds between two attempts to connect
VISIBILITY_SECONDS = 6 * 3600  # longer than any training: meanwhile an unacknowledged message is not redelivered
SOFT_SHUTDOWN_SECONDS = 5.0


class PatientConnection(Connection):
    """A connection that tries to connect every few seconds, for as long as it is told to."""

    def _ensure_connection(
        self,
        errback: Callable[..., Any] | None = None,
        max_retries: int | None = None,
        interval_start: int = 2,
        interval_step: int = 2,
        interval_max: int = 30,
        callback: Callable[[], None] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: int | None = None,
    ) -> Any:
        start, step = min(interval_start, LONGEST_PAUSE), min(interval_step, LONGEST_PAUSE)
        longest = min(interval_max, LONGEST_PAUSE)
        return super()._ensure_connection(
            errback, max_retries, start, step, longest, callback, reraise_as_library_errors, timeout
        )


class Amqp(AMQP):
    """Celery's wiring, with patient connections."""

    Connection = PatientConnection


def queue_name(queue: str) -> str:
    """The name of a queue at the broker, which other programs may use too."""
    return f"oubli.{queue}"


def make_celery(settings: Settings) -> Celery:
    """A Celery application with our broker and settings, and no tasks of its own."""
    app = Celery("oubli", broker=settings.broker, amqp=Amqp)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[Queue(queue_name(q), Exchange(queue_name(q)), routing_key=queue_name(q)) for q in QUEUES],
        task_default_queue=queue_name(ADDITIONS),
        task_create_missing_queues=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # no limit: the default ends the process after 100
        broker_channel_error_retry=True,  # Redis is full, or still loading its file: both end
        enable_utc=True,
    )
    if settings.broker_url is None:
        app.conf.update(
            broker_transport="service.messaging.folder_transport:FolderTransport",
            broker_transport_options=_folder(settings),
        )
    else:
        scheme = settings.broker.partition("://")[0]
        if scheme in ("redis", "rediss"):
            app.conf.update(broker_transport="service.messaging.redis_transport:RedisTransport")
        if scheme == "rediss":  # kombu alone would accept any certificate; `ssl_…` in the URL can loosen this
            app.conf.update(broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True})
        app.conf.update(broker_transport_options=redis_options(socket_timeout=5.0, connect_timeout=2.0))
    return app


def redis_options(*, socket_timeout: float, connect_timeout: float) -> dict[str, Any]:
    """Options of a connection to Redis: no socket hangs for long, and a half-open one is noticed. Times in seconds."""
    return {
        "visibility_timeout": VISIBILITY_SECONDS,
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": connect_timeout,
        "socket_keepalive": True,
        "health_check_interval": 5,  # seconds; also how much later than it should a BRPOP may be answered
        "queue_order_strategy": "priority",  # deletions first, not in turn
        "priority_steps": [0],
    }


def _folder(settings: Settings) -> dict[str, Any]:
    folder = settings.data_dir.absolute() / "queue"
    private.make_folder(folder / "control")
    return {
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.1,
    }

"""Notifications to workers, by Celery: a message says "look at the registry", never what to do, so any may be lost.

The caller never waits, whatever the broker does: a thread of the notifier's own talks to the broker. Notifications that
come faster than the broker takes them are merged. One that the broker does not take is dropped: the next pass over the
registry notifies again.

Embedded: kombu's filesystem transport, in a folder of the data folder (docs/decisions/0001-embedded-broker.md).
"""

from __future__ import annotations

import logging
import threading

from celery import Celery

from service.messaging import propagation
from service.messaging.celery_app import TRAIN, make_celery, queue_name, redis_options
from service.messaging.queues import ADDITIONS, DELETIONS, QUEUES
from service.settings import Settings

log = logging.getLogger(__name__)

FAST = 0.5  # seconds that the broker has to answer
MOST = 64  # notifications that wait, at most: no service has more workers than that to wake at once


class Notifier:
    """Notifies workers. Never raises and never waits: a notification that is lost only delays training."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._expires = max(10.0, 2 * settings.worker.reconcile_seconds)
        self._app: Celery | None = None
        self._lock = threading.Lock()  # of the application: one thread talks to the broker
        self._waiting = dict.fromkeys(QUEUES, 0)
        self._headers: dict[str, dict[str, object]] = {}  # of the latest notification: which requests it is for
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._answers = True

    def notify(self, times: int, *, urgent: bool = False) -> None:
        """Ask `times` workers to look for work; `urgent`: a deletion's."""
        if times < 1:
            return
        queue = DELETIONS if urgent else ADDITIONS
        with self._changed:
            self._waiting[queue] = min(max(self._waiting[queue], times), MOST)
            self._headers[queue] = propagation.headers()
            if self._thread is None:
                self._thread = threading.Thread(target=self._pass_on, name="notifier", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until the broker has taken or refused all notifications; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not any(self._waiting.values()), seconds)

    def notify_now(self, *, urgent: bool) -> bool:
        """Notify one worker and wait for the broker, for a second or two; whether the broker has taken the message."""
        return self._send(DELETIONS if urgent else ADDITIONS, 1, propagation.headers())

    def _pass_on(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: any(self._waiting.values()))
                self._busy = True
                waiting, self._waiting = self._waiting, dict.fromkeys(QUEUES, 0)
                headers, self._headers = self._headers, {}
            for queue, times in waiting.items():
                if times and not self._send(queue, times, headers.get(queue, {})):
                    break

    def _send(self, queue: str, times: int, headers: dict[str, object]) -> bool:
        with self._lock:
            for second in (False, True):  # the first attempt may find a connection that a restart has cut
                try:
                    app = self._connected()
                    for _ in range(times):
                        app.send_task(
                            TRAIN, queue=queue_name(queue), expires=self._expires, headers=headers, retry=False
                        )
                except Exception as error:  # any transport's own connection errors
                    self._disconnect()
                    if second:
                        self._note(error)
                else:
                    self._note(None)
                    return True
        return False

    def _note(self, error: Exception | None) -> None:
        """Log when the broker stops answering and when it answers again, not every notification in between."""
        if error is not None and self._answers:
            log.warning("the broker does not answer (%s); the next pass notifies again", type(error).__name__)
        elif error is None and not self._answers:
            log.info("the broker answers again")
        self._answers = error is None

    def _connected(self) -> Celery:
        if self._app is None:
            self._app = make_celery(self._settings)
            if self._settings.broker_url is not None:
                # Short timeouts, and no retries: another notification follows. A worker, which waits for messages, has
                # longer ones.
                fast = redis_options(socket_timeout=FAST, connect_timeout=FAST)
                self._app.conf.update(
                    broker_connection_timeout=FAST, broker_transport_options={**fast, "max_retries": 0}
                )
        return self._app

    def _disconnect(self) -> None:
        """Drop the connection: what it knows of the broker may be wrong by now. The next message makes a new one."""
        app, self._app = self._app, None
        try:
            if app is not None:
                app.close()
        except Exception as error:  # it is being thrown away
            log.debug("closing the broker's connection failed: %s", error)

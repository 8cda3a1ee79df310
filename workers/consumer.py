"""Celery's consumer, with a pause between two attempts at a broker that accepts a connection and then refuses.

Celery pauses after a failed connection only. A Redis that is full accepts a worker's connection and refuses what the
worker writes: it came back some twelve times a second (measured), and logged a traceback every few.
"""

from __future__ import annotations

import time

from celery.worker.consumer import Consumer

PAUSE = 1.0  # seconds


class PausingConsumer(Consumer):
    """The consumer that Celery's setting `worker_consumer` names."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log the error as Celery does, and wait."""
        super().on_connection_error_before_connected(exc)
        time.sleep(PAUSE)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close what is left of the connection, as Celery does, and wait."""
        super().on_connection_error_after_connected(exc)
        time.sleep(PAUSE)

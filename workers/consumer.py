"""Celery's consumer, made to wait a moment between two attempts at a broker that connects and then refuses.

Celery pauses after a failed connection only. A Redis that is full lets a worker in and refuses what it then writes: it
came back some twelve times a second (measured), and logged a traceback every few.
"""

from __future__ import annotations

import time

from celery.worker.consumer import Consumer

PAUSE = 1.0  # seconds


class PausingConsumer(Consumer):
    """Named in Celery's `worker_consumer`."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Say so, and wait."""
        super().on_connection_error_before_connected(exc)
        time.sleep(PAUSE)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close what is left of the connection, and wait."""
        super().on_connection_error_after_connected(exc)
        time.sleep(PAUSE)

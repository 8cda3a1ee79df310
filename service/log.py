"""Logs hold ids only: never owner references, labels, file names or images."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"


def configure(level: str = "INFO") -> None:
    """Log to standard error, one line an event."""
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=FORMAT, force=True)
    for noisy in ("httpx", "httpcore", "timm", "PIL", "alembic", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

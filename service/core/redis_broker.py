"""Redis as the broker: kombu's transport, with messages that are none of ours dropped.

The stock transport dies of a list entry that is no JSON object: the worker ends, with status 0 (measured, kombu 5.7).
By then the entry has left the list, so there is nothing to lose: a bell is only a bell.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Reads what it can, and drops the rest."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # which its stubs leave out
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("a message that is none of ours was dropped (%s)", type(error).__name__)
            return True  # something was read: the next poll goes on


class Transport(redis.Transport):
    """Named in Celery's `broker_transport`."""

    Channel = Channel

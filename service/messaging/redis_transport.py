"""Redis as the broker: kombu's transport, where two things would end or deafen a worker (measured, kombu 5.7).

A list entry that is no JSON object ends it, with status 0. Here it is dropped: it has left the list by then.

A message whose acknowledgement fails, because Redis hangs just then, stays among those that the worker has in hand. It
may have one in hand, so it never asks for another, though Redis is long back. Here it is let go of: Redis hands it out
again some hours later, and a bell too many is a look too many.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis, virtual

log = logging.getLogger(__name__)


class RedisQoS(redis.QoS):
    """Lets go of a message that cannot be acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Raises what Redis raises."""
        try:
            super().ack(delivery_tag)
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)
            raise


class RedisChannel(redis.Channel):
    """Reads what it can, and drops the rest."""

    QoS = RedisQoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # which its stubs leave out
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("a message that is none of ours was dropped (%s)", type(error).__name__)
            return True  # something was read: the next poll goes on


class RedisTransport(redis.Transport):
    """Named in Celery's `broker_transport`."""

    Channel = RedisChannel

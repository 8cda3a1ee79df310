"""Redis as the broker: kombu's transport, with two faults mended that end or stall a worker (measured, kombu 5.7).

A list entry that is not a JSON object ends the worker, with status 0. Here it is dropped; it has left the list by then.

A message whose acknowledgement fails, because Redis hangs just then, stays unacknowledged in the worker. A worker may
have one such message, so it never asks for another, even when Redis is back. Here the message is forgotten: Redis
delivers it again some hours later, which costs one needless look at the registry.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis, virtual

log = logging.getLogger(__name__)


class RedisQoS(redis.QoS):
    """Acknowledgements that forget a message which cannot be acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. Raises what Redis raises."""
        try:
            super().ack(delivery_tag)
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)
            raise


class RedisChannel(redis.Channel):
    """A channel that drops messages which it cannot read."""

    QoS = RedisQoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # which its stubs leave out
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("a message from another program was dropped (%s)", type(error).__name__)
            return True  # something was read: the next poll goes on


class RedisTransport(redis.Transport):
    """Named in Celery's `broker_transport`."""

    Channel = RedisChannel

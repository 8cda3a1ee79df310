"""The threads that compute batches: each takes a batch from end to end, on one core.

Two batches of sixteen on two threads of one core each are computed faster than one of thirty-two on two cores that wait
for each other at every layer, and much faster where requests are parsed on the same cores (decision 0012). On a GPU one
thread is enough: the device computes one thing after the other.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from service.serving.batcher import Limits
from service.settings import Settings


def limits(settings: Settings) -> Limits:
    """Of the batcher that these lanes work for."""
    serving = settings.serving
    return Limits(
        max_batch=serving.max_batch,
        max_queue=serving.max_queue,
        lanes=serving.threads if settings.device == "cpu" else 1,
        max_wait=serving.max_wait,
        deadline=serving.deadline_seconds,
    )


def make_lanes(settings: Settings) -> ThreadPoolExecutor:
    """Their threads."""
    return ThreadPoolExecutor(
        max_workers=limits(settings).lanes,
        thread_name_prefix="lane",
        initializer=_enter,
        initargs=(settings.serving.nice,),
    )


def _enter(nice: int) -> None:
    torch.set_num_threads(1)  # of this thread; there are other lanes
    if sys.platform == "linux" and nice:
        # Of this thread alone: whoever accepts requests, above all deletions, goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)

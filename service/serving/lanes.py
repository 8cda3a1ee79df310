"""Lanes: the threads that compute batches, each a batch from end to end, on one core.

Two batches of sixteen on two threads of one core each are computed faster than one of thirty-two on two cores that wait
for each other at every layer, and much faster where requests are parsed on the same cores (decision 0012). On a GPU one
thread is enough: the device computes one batch after the other.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from models.embedding import unpadded_size
from service.serving.batcher import Limits
from service.serving.jobs import EmbedJob, Job
from service.settings import Settings


def limits(settings: Settings) -> Limits:
    """The limits of the batcher that these lanes work for."""
    serving = settings.serving
    return Limits(
        max_batch=serving.max_batch,
        max_queue=serving.max_queue,
        lanes=serving.threads if settings.device == "cpu" else 1,
        max_wait=serving.max_wait,
        deadline=serving.deadline_seconds,
    )


def portion(settings: Settings) -> Callable[[Sequence[Job], int], int]:
    """A function of the waiting jobs and the number of free lanes: how many of the jobs a lane takes.

    On a CPU an image costs the same in a batch of four as in one of sixteen, so free lanes share, and jobs that would
    need padding are left to the next lane. A batch with a new sample is padded to one size in any case, and a GPU is
    best at large batches: there a lane takes all jobs.
    """

    def of_a_cpu(jobs: Sequence[Job], free: int) -> int:
        recorded = any(isinstance(job, EmbedJob) for job in jobs)
        return len(jobs) if recorded else unpadded_size(-(-len(jobs) // free))

    return of_a_cpu if settings.device == "cpu" else lambda jobs, free: len(jobs)


def make_lanes(settings: Settings) -> ThreadPoolExecutor:
    """The lanes' threads."""
    return ThreadPoolExecutor(
        max_workers=limits(settings).lanes,
        thread_name_prefix="lane",
        initializer=_enter,
        initargs=(settings.serving.nice,),
    )


def _enter(nice: int) -> None:
    torch.set_num_threads(1)  # of this thread; there are other lanes
    give_way(nice)  # the threads that accept requests, above all deletions, go first


def give_way(nice: int) -> None:
    """Raise the niceness of the calling thread alone, to 19 at most; on Linux, elsewhere threads have none."""
    if sys.platform == "linux" and nice:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)

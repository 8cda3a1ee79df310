"""Threads that compute batches: one core each, and behind whoever accepts requests."""

import os
import threading
from typing import Any

import pytest
import torch

from service.serving.jobs import EmbedJob, Job, Query
from service.serving.lanes import limits, make_lanes, portion
from service.settings import ServingSettings, Settings


def settings(device: str = "cpu", **serving: Any) -> Settings:
    return Settings(device=device, serving=ServingSettings(**serving))


def test_a_lane_computes_on_one_core_and_is_nicer_than_the_rest() -> None:
    def look() -> tuple[int, int]:
        return torch.get_num_threads(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    threads = torch.get_num_threads()
    try:
        with make_lanes(settings(nice=3)) as lanes:
            assert lanes.submit(look).result() == (1, min(19, mine + 3))
        with make_lanes(settings(nice=0)) as lanes:
            assert lanes.submit(look).result() == (1, mine)
    finally:
        torch.set_num_threads(threads)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


@pytest.mark.parametrize(("device", "lanes"), [("cpu", 3), ("cuda", 1), ("cuda:1", 1)])
def test_there_are_as_many_as_threads_and_one_on_a_gpu(device: str, lanes: int) -> None:
    found = limits(settings(device, threads=3, max_wait=0.25, deadline_seconds=7.0))
    assert found.lanes == lanes
    assert (found.max_wait, found.deadline) == (0.25, 7.0)


IMAGE = torch.zeros((3, 8, 8), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("waiting", "free", "taken"),
    [
        (1, 2, 1),
        (2, 2, 1),
        (3, 2, 2),
        (3, 1, 2),
        (7, 1, 4),
        (8, 1, 8),
        (15, 1, 12),
        (16, 1, 16),
        (16, 2, 8),
        (40, 1, 32),
    ],
)
def test_free_lanes_share_and_what_would_be_padded_is_left_to_the_next(waiting: int, free: int, taken: int) -> None:
    queries: list[Job] = [Query(IMAGE, "digest")] * waiting
    assert portion(settings())(queries, free) == taken
    assert portion(settings("cuda"))(queries, free) == waiting


def test_recorded_descriptions_are_not_shared_out_for_each_batch_of_them_is_padded_to_one_size() -> None:
    jobs: list[Job] = [Query(IMAGE, "digest")] * 12 + [EmbedJob(IMAGE)]
    assert portion(settings())(jobs, 2) == 13

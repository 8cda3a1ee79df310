"""Threads that compute batches: one core each, and behind whoever accepts requests."""

import os
import threading
from typing import Any

import pytest
import torch

from service.serving.lanes import limits, make_lanes
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

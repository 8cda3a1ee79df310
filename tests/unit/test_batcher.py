"""The batcher's promises, without a model: items are numbers, and computing one doubles it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.errors import Busy, Unavailable
from service.serving.batcher import Batcher, Limits

Run = Callable[[Sequence[int]], Sequence[int]]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


class Device:
    """Doubles numbers, one batch at a time, once its gate is open; remembers its batches."""

    def __init__(self, *, busy: bool = False) -> None:
        self.gate = threading.Event()
        if not busy:
            self.gate.set()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        assert self.gate.wait(10)
        if -1 in items:
            raise ZeroDivisionError("a bad item")
        return [2 * item for item in items]

    async def is_computing(self, batches: int = 1) -> None:
        while len(self.batches) < batches:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def started(
    run: Run,
    executor: ThreadPoolExecutor,
    *,
    max_batch: int = 4,
    max_queue: int = 8,
    portion: Callable[[Sequence[int], int], int] = lambda items, lanes: len(items),
    **limits: Any,
) -> AsyncIterator[Batcher[int, int]]:
    most = Limits(max_batch=max_batch, max_queue=max_queue, **limits)
    batcher = Batcher(run, most, executor=executor, portion=portion)
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.stop()


async def waiting(batcher: Batcher[int, int], items: Sequence[int], *, caller: str = "") -> asyncio.Task[list[int]]:
    """A request whose items are in the queue."""

    async def request() -> list[int]:
        with batcher.expect(len(items), caller=caller) as announcement:
            return await announcement.submit(items)

    before = batcher.depth
    task = asyncio.create_task(request())
    while batcher.depth < before + len(items) and not task.done():
        await asyncio.sleep(0)
    return task


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_results_come_back_in_order(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor) as batcher:
            assert await batcher.submit([3, 1, 2]) == [6, 2, 4]
            assert await batcher.submit([]) == []

    in_loop(scene())


def test_what_gathers_while_the_device_is_busy_is_computed_together_up_to_max_batch(
    executor: ThreadPoolExecutor,
) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            others = [await waiting(batcher, [number]) for number in range(1, 7)]
            device.gate.set()
            assert await asyncio.gather(first, *others) == [[2 * number] for number in range(7)]
            assert device.batches == [[0], [1, 2, 3, 4], [5, 6]]

    in_loop(scene())


def test_a_full_queue_refuses_a_request_as_a_whole(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor, max_queue=3) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            second = await waiting(batcher, [1, 2])
            with pytest.raises(Busy) as refusal:
                await batcher.submit([3, 4])
            assert refusal.value.retry_after == 1
            assert batcher.depth == 2
            third = await waiting(batcher, [5])
            device.gate.set()
            assert await asyncio.gather(first, second, third) == [[0], [2, 4], [10]]
            assert [item for batch in device.batches for item in batch] == [0, 1, 2, 5]

    in_loop(scene())


def test_items_of_a_caller_who_has_gone_are_dropped_and_neighbours_are_answered(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            gone = await waiting(batcher, [1, 2])
            stays = await waiting(batcher, [3])
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            device.gate.set()
            assert await asyncio.gather(first, stays) == [[0], [6]]
            assert device.batches == [[0], [3]]

    in_loop(scene())


def test_a_caller_who_goes_during_the_computation_harms_nobody(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            gone, stays = await waiting(batcher, [1]), await waiting(batcher, [2])
            device.gate.set()
            await first
            device.gate.clear()
            await device.is_computing(2)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            device.gate.set()
            assert await stays == [4]

    in_loop(scene())


def test_an_exception_reaches_every_caller_of_its_batch_and_the_next_batch_is_computed(
    executor: ThreadPoolExecutor,
) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            unlucky = [await waiting(batcher, [1, 2]), await waiting(batcher, [-1])]
            device.gate.set()
            assert await first == [0]
            for error in await asyncio.gather(*unlucky, return_exceptions=True):
                assert isinstance(error, ZeroDivisionError)
            assert await batcher.submit([5]) == [10]

    in_loop(scene())


def test_a_wrong_number_of_results_is_an_error_and_never_a_mix_up(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(lambda items: [0] * (len(items) - 1), executor) as batcher:
            with pytest.raises(RuntimeError, match="1 results for 2 items"):
                await batcher.submit([1, 2])

    in_loop(scene())


def test_an_idle_batcher_uses_no_processor(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor) as batcher:
            await batcher.submit([1])
            before = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - before < 0.05

    in_loop(scene())


def test_stopping_tells_those_who_wait_and_those_being_computed(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor) as batcher:
            computed = await waiting(batcher, [0])
            await device.is_computing()
            queued = await waiting(batcher, [1])
            await batcher.stop()
            for caller in (computed, queued):
                with pytest.raises(Unavailable, match="shutting down"):
                    await asyncio.wait_for(caller, 1)
            device.gate.set()

    in_loop(scene())


def test_a_batch_waits_for_those_who_are_announced_and_no_longer_than_max_wait(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device()
        async with started(device, executor, max_wait=10) as batcher:
            with batcher.expect(1) as announcement:
                first = await waiting(batcher, [1])
                await asyncio.sleep(0.05)
                assert device.batches == []
                assert await announcement.submit([2]) == [4]
            assert await first == [2]
            assert device.batches == [[1, 2]]
        async with started(device, executor, max_wait=0.02) as batcher:
            with batcher.expect(1):
                assert await batcher.submit([3]) == [6]  # the other never comes

    in_loop(scene())


def test_a_batch_waits_for_nobody_when_nobody_is_announced_or_who_was_has_gone(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor, max_wait=60) as batcher:
            assert await batcher.submit([1]) == [2]
            with batcher.expect(3):  # they never come: their request has failed
                first = await waiting(batcher, [2])
            assert await first == [4]
            with batcher.expect(3):
                assert await batcher.submit([1, 2, 3, 4]) == [2, 4, 6, 8]  # full

    in_loop(scene())


def test_announced_items_have_their_places_in_the_queue(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor, max_queue=3) as batcher:
            with batcher.expect(2) as announcement:
                with pytest.raises(Busy):
                    await batcher.submit([1, 2])
                assert batcher.refused == 2
                assert await announcement.submit([5, 6]) == [10, 12]
            assert await batcher.submit([1, 2, 3]) == [2, 4, 6]

    in_loop(scene())


def test_whoever_keeps_the_queue_full_does_not_have_others_refused(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor, max_queue=8) as batcher:
            with batcher.expect(4, caller="ada"), batcher.expect(4, caller="ada"):
                with pytest.raises(Busy), batcher.expect(1, caller="ada"):
                    pass
                with batcher.expect(2, caller="bela") as announcement:
                    assert await announcement.submit([1, 2]) == [2, 4]
                    with batcher.expect(2, caller="carl"):  # it is a quarter longer, not endless
                        for caller in ("bela", "dora"):
                            with pytest.raises(Busy), batcher.expect(1, caller=caller):
                                pass
            with batcher.expect(8, caller="ada"):  # whatever ends gives its room back
                pass

    in_loop(scene())


def test_one_image_does_not_wait_for_the_many_of_another_caller(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor, max_queue=20) as batcher:
            first = await waiting(batcher, [0], caller="ada")
            await device.is_computing()
            ada = [await waiting(batcher, list(range(at, at + 4)), caller="ada") for at in (10, 20)]
            bela = await waiting(batcher, [30], caller="bela")
            carl = await waiting(batcher, [40, 41], caller="carl")
            device.gate.set()
            assert await asyncio.gather(first, *ada) == [[0], [20, 22, 24, 26], [40, 42, 44, 46]]
            assert await asyncio.gather(bela, carl) == [[60], [80, 82]]
            assert device.batches == [[0], [10, 30, 40, 11], [41, 12, 13, 20], [21, 22, 23]]

    in_loop(scene())


def test_what_a_lane_leaves_is_computed_next_in_turn(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor, portion=lambda items, lanes: 1) as batcher:
            requests = [await waiting(batcher, [0], caller="ada")]
            await device.is_computing()
            for caller, items in (("ada", [1, 2]), ("bela", [3]), ("carl", [4, 5])):
                requests.append(await waiting(batcher, items, caller=caller))
            device.gate.set()
            await asyncio.gather(*requests)
            assert device.batches == [[0], [1], [3], [4], [2], [5]]

    in_loop(scene())


def test_items_of_a_request_that_has_failed_leave_the_count_of_places_right(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        async with started(Device(), executor, max_queue=2) as batcher:
            with batcher.expect(2) as announcement:
                pass
            assert await announcement.submit([1]) == [2]  # a straggler
            assert await batcher.submit([1, 2]) == [2, 4]
            with pytest.raises(Busy):
                await batcher.submit([1, 2, 3])

    in_loop(scene())


def test_an_item_that_waited_past_its_deadline_is_told_so_and_not_computed(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        device = Device(busy=True)
        async with started(device, executor, deadline=0.05) as batcher:
            first = await waiting(batcher, [0])
            await device.is_computing()
            late = await waiting(batcher, [1, 2])
            await asyncio.sleep(0.1)
            in_time = await waiting(batcher, [3])
            device.gate.set()
            with pytest.raises(Unavailable, match="too long"):
                await late
            assert await asyncio.gather(first, in_time) == [[0], [6]]
            assert device.batches == [[0], [3]]
            assert batcher.late == 2

    in_loop(scene())


def test_lanes_compute_at_once_what_does_not_fit_one_batch() -> None:
    async def scene() -> None:
        device = Device(busy=True)
        with ThreadPoolExecutor(max_workers=2) as lanes:
            async with started(device, lanes, lanes=2) as batcher:
                caller = asyncio.create_task(batcher.submit([1, 2, 3, 4, 5, 6]))
                await device.is_computing(2)  # the first is not done: the gate is shut
                assert device.batches == [[1, 2, 3, 4], [5, 6]]
                device.gate.set()
                assert await caller == [2, 4, 6, 8, 10, 12]

    in_loop(scene())


def test_a_lane_takes_the_portion_it_is_told_of_what_fits_a_batch_and_the_lanes_that_are_free() -> None:
    async def scene() -> None:
        device, told = Device(busy=True), []

        def two(items: Sequence[int], free: int) -> int:
            told.append((list(items), free))
            return min(2, len(items))

        with ThreadPoolExecutor(max_workers=2) as lanes:
            async with started(device, lanes, lanes=2, portion=two) as batcher:
                caller = asyncio.create_task(batcher.submit([1, 2, 3, 4, 5]))
                await device.is_computing(2)
                assert device.batches == [[1, 2], [3, 4]]
                assert told == [([1, 2, 3, 4], 2), ([3, 4, 5], 1)]
                device.gate.set()
                assert await caller == [2, 4, 6, 8, 10]
                assert device.batches[2:] == [[5]]
                assert await batcher.submit([6]) == [12]
                assert told[-1] == ([6], 2)

    in_loop(scene())


def test_a_batcher_that_never_started_can_be_stopped(executor: ThreadPoolExecutor) -> None:
    async def scene() -> None:
        await Batcher(Device(), Limits(max_batch=1, max_queue=1), executor=executor).stop()

    in_loop(scene())

"""One batch of everything: images to be classified and newcomers to be described, on several threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
import torch

from models.backbone import Backbone
from models.bank import PromptBank
from models.embedding import embed
from service.errors import ServiceError
from service.registry.tables import ClusterRow
from service.serving import engine as engine_module
from service.serving.engine import Engine
from service.serving.jobs import Answer, Description, EmbedJob, Outcome, Query
from tests.world import World


@pytest.fixture
def engine(idle: World) -> Engine:
    engine = Engine(idle.context)
    engine.warm_up()
    return engine


def jobs_of(world: World, count: int) -> tuple[list[torch.Tensor], list[Query | EmbedJob]]:
    """Every other one is to be classified."""
    pictures = world.new_samples(count)
    images = [world.context.backbone.preprocessing.resize(picture.pixels) for picture in pictures]
    return images, [
        Query(image, picture.digest) if place % 2 else EmbedJob(image)
        for place, (image, picture) in enumerate(zip(images, pictures, strict=True))
    ]


def same_answers(left: list[Outcome], right: list[Answer | ServiceError]) -> bool:
    """In all but the last bits of the scores."""
    return all(
        isinstance(a, Answer)
        and isinstance(b, Answer)
        and (a.cluster, a.prompt, a.tier) == (b.cluster, b.prompt, b.tier)
        and dict(a.scores) == pytest.approx(dict(b.scores), abs=1e-5)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_a_newcomer_is_described_by_the_same_bits_whoever_is_in_its_batch(
    idle: World, engine: Engine, count: int
) -> None:
    images, jobs = jobs_of(idle, count)
    outcomes = engine.run(jobs)
    expected = embed(idle.context.backbone, images)
    for place in range(0, count, 2):
        outcome = outcomes[place]
        assert isinstance(outcome, Description)
        assert np.array_equal(outcome.embedding, expected[place])
    queries = [job for job in jobs if isinstance(job, Query)]
    assert same_answers(outcomes[1::2], engine.run(queries))


def test_a_batch_that_the_device_cannot_hold_is_computed_in_halves_once(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, sizes = engine_module.describe, list[int]()

    def cramped(backbone: object, images: list[torch.Tensor], **how: bool) -> object:
        sizes.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return describe(backbone, images, **how)  # type: ignore[arg-type]

    _, jobs = jobs_of(idle, 8)
    expected = engine.run(jobs)
    monkeypatch.setattr(engine_module, "describe", cramped)
    room = 4
    outcomes = engine.run(jobs)
    assert sizes == [8, 4, 4]
    assert [type(outcome) for outcome in outcomes] == [type(outcome) for outcome in expected]
    room = 3
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(jobs)
    room, sizes = 0, []
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(jobs[:1])
    assert sizes == [1]


def test_a_row_that_was_filled_again_while_it_was_read_is_not_believed(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Withdrawn and published again under the same key within a batch: what was read of its row is anything."""
    queries = [job for job in jobs_of(idle, 16)[1] if isinstance(job, Query)]
    expected = engine.run(queries)
    passes, compute = list[int](), PromptBank.probabilities

    def torn(bank: PromptBank, backbone: Backbone, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        said = compute(bank, backbone, images, rows)
        if len(passes) > 1:
            return said
        with idle.context.registry.write() as session:
            session.execute(sa.update(ClusterRow).values(rebuild=True))
        idle.settle()
        engine.refresh()  # as another thread's batch does
        return torch.full_like(said, 0.5)

    served = idle.serving_keys()
    monkeypatch.setattr(PromptBank, "probabilities", torn)
    assert same_answers(list(engine.run(queries)), expected)
    assert idle.serving_keys() == served
    assert passes == [len(queries)] * 2


def test_threads_answer_at_once_while_prompts_come_and_go(idle: World, engine: Engine) -> None:
    """Every answer names a prompt that was served at some moment, and no thread fails."""
    _, jobs = jobs_of(idle, 16)
    served, done = set(idle.serving_keys()), threading.Event()

    def ask() -> list[Outcome]:
        answers: list[Outcome] = []
        while not done.is_set():
            answers += engine.run(jobs)
        return answers

    with ThreadPoolExecutor(max_workers=3) as threads:
        asked = [threads.submit(ask) for _ in range(3)]
        for _ in range(5):
            idle.erase(next(iter(idle.survivors)))
            idle.settle()
            served |= set(idle.serving_keys())
        done.set()
        answers = [outcome for future in asked for outcome in future.result() if isinstance(outcome, Answer)]
    assert len(answers) > 3 * 8
    assert {answer.prompt for answer in answers} <= served
    idle.check()

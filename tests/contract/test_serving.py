"""Answering: from what is served now and nothing else, whatever is withdrawn meanwhile."""

from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa

from models.bank import PromptBank
from models.partition import Interval
from service.core.intake import NewSample
from service.errors import Invalid, ServiceError, Unavailable
from service.registry.tables import ClusterRow
from service.serving import engine as engine_module
from service.serving.engine import Answer, Engine, Query
from service.serving.snapshot import take_snapshot
from tests.world import MakeWorld, World


@pytest.fixture
def engine(idle: World) -> Engine:
    """Warm, and knowing everything that is served."""
    engine = Engine(idle.context)
    engine.warm_up()
    return engine


def query(world: World, new_sample: NewSample) -> Query:
    resized = world.context.backbone.preprocessing.resize(new_sample.pixels)
    return Query(resized, new_sample.digest)


def queries(world: World, count: int) -> list[Query]:
    return [query(world, new_sample) for new_sample in world.new_samples(count)]


def answered(results: list[Answer | ServiceError]) -> list[Answer]:
    """All of them, if all were answered."""
    assert [type(result) for result in results] == [Answer] * len(results), results
    return [result for result in results if isinstance(result, Answer)]


def withdraw_all(world: World) -> None:
    """Erase one sample of every cluster."""
    world.erase(*{sample.cluster: sample.id for sample in world.samples()}.values())


# ----------------------------------------------------------------------------------------------------- answers


def test_a_batch_mixes_clusters_and_each_image_is_answered_by_its_own(idle: World, engine: Engine) -> None:
    new_samples = idle.new_samples(24)
    answers = answered(engine.run([query(idle, new_sample) for new_sample in new_samples]))
    assert len({answer.cluster for answer in answers}) > 1
    by_id = {cluster.id: cluster for cluster in idle.clusters()}
    for new_sample, answer in zip(new_samples, answers, strict=True):
        (position,) = idle.context.partition.locate(new_sample.embedding[None], [new_sample.digest])
        own = by_id[answer.cluster]
        assert own.lo <= position < own.hi
        assert (answer.prompt, answer.tier, answer.degraded) == (own.serving_key, "prompt", False)


def test_scores_are_probabilities_best_first_of_the_clusters_labels(idle: World, engine: Engine) -> None:
    for answer in answered(engine.run(queries(idle, 8))):
        scores = [score for _, score in answer.scores]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1.0, abs=1e-5)
        assert {label for label, _ in answer.scores} == {"cat", "dog"}


def test_clusters_with_fewer_labels_than_others_never_answer_with_a_label_they_have_not(world: World) -> None:
    world.take_in([world.new_sample(("cat", "dog", "cow")[i % 3]) for i in range(30)])
    world.settle()
    only = world.clusters()[0]
    others = [s.id for s in world.samples() if s.cluster == only.id and s.label != "cat"]
    world.erase(*others)
    world.settle()
    world.check()
    snapshot = take_snapshot(world.context, None)
    labels = {row.key: set(row.labels) for row in snapshot.live}
    for answer in answered(Engine(world.context).run(queries(world, 16))):
        assert {label for label, _ in answer.scores} == labels[answer.prompt]


def test_an_image_is_answered_alike_alone_and_among_others(idle: World, engine: Engine) -> None:
    many = queries(idle, 9)
    together = answered(engine.run(many))
    for alone, among in zip(many, together, strict=True):
        (answer,) = answered(engine.run([alone]))
        assert (answer.prompt, answer.scores[0][0]) == (among.prompt, among.scores[0][0])
        assert answer.scores[0][1] == pytest.approx(among.scores[0][1], abs=1e-5)


def test_an_empty_batch_has_no_answers(engine: Engine) -> None:
    assert engine.run([]) == []


def test_an_image_without_features_is_refused_and_its_neighbours_are_answered(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = engine_module.describe

    def blind(backbone: object, images: object, **how: bool) -> object:
        described = describe(backbone, images, **how)  # type: ignore[arg-type]
        described.embeddings[1] = np.nan
        return described

    monkeypatch.setattr(engine_module, "describe", blind)
    first, refused, last = engine.run(queries(idle, 3))
    assert isinstance(refused, Invalid)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)


# ------------------------------------------------------------------------------------------------ withdrawn


def test_nothing_is_answered_before_anything_is_trained(world: World) -> None:
    engine = Engine(world.context)
    engine.warm_up()
    for count in (0, 5):  # neither without clusters nor with an untrained one
        world.add(count)
        world.reconcile()
        (refused,) = engine.run(queries(world, 1))
        assert isinstance(refused, Unavailable)
        assert refused.retry_after == 2


def test_a_withdrawn_prompt_is_never_used_again(idle: World, engine: Engine) -> None:
    asked = queries(idle, 24)
    before = answered(engine.run(asked))
    withdrawn = before[0]
    victim = next(sample for sample in idle.samples() if sample.cluster == withdrawn.cluster)
    idle.erase(victim.id)
    after = answered(engine.run(asked))
    assert withdrawn.prompt not in {answer.prompt for answer in after}
    for old, new in zip(before, after, strict=True):
        assert new.degraded == (old.prompt == withdrawn.prompt)
        if not new.degraded:
            assert new == old


def test_an_image_whose_cluster_serves_nothing_is_answered_by_the_nearest_that_does(
    idle: World, engine: Engine
) -> None:
    new_samples = idle.new_samples(16)
    asked = [query(idle, new_sample) for new_sample in new_samples]
    gone = answered(engine.run(asked))[0].cluster
    idle.erase(next(sample.id for sample in idle.samples() if sample.cluster == gone))
    left = [cluster for cluster in idle.clusters() if cluster.serving_key]
    regions = [Interval(cluster.lo, cluster.hi) for cluster in left]
    for new_sample, answer in zip(new_samples, answered(engine.run(asked)), strict=True):
        if answer.degraded:
            (position,) = idle.context.partition.locate(new_sample.embedding[None], [new_sample.digest])
            nearest = left[idle.context.partition.nearest(new_sample.embedding, int(position), regions)]
            assert (answer.cluster, answer.prompt) == (nearest.id, nearest.serving_key)


def test_abstaining_refuses_those_images_and_only_those(make_world: MakeWorld) -> None:
    world = make_world(serving={"withdrawn": "abstain"})
    world.add(30)
    world.settle()
    engine = Engine(world.context)
    asked = queries(world, 16)
    before = answered(engine.run(asked))
    gone = before[0].cluster
    world.erase(next(sample.id for sample in world.samples() if sample.cluster == gone))
    for old, new in zip(before, engine.run(asked), strict=True):
        if old.cluster == gone:
            assert isinstance(new, Unavailable)
        else:
            assert new == old


def test_when_everything_is_withdrawn_nothing_is_answered_until_it_is_trained_again(
    idle: World, engine: Engine
) -> None:
    withdraw_all(idle)
    assert {type(result) for result in engine.run(queries(idle, 4))} == {Unavailable}
    idle.settle()
    assert not any(answer.degraded for answer in answered(engine.run(queries(idle, 4))))


def before_computing(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> list[int]:
    """Do something between the look at what is served and the forward pass; the sizes of the passes made."""
    compute = PromptBank.probabilities
    passes: list[int] = []

    def hooked(bank: PromptBank, backbone: object, images: object, rows: object) -> object:
        passes.append(len(rows))  # type: ignore[arg-type]
        what()
        return compute(bank, backbone, images, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptBank, "probabilities", hooked)
    return passes


def test_what_is_withdrawn_while_a_batch_is_computed_is_computed_again(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = queries(idle, 24)
    before = answered(engine.run(asked))
    gone = before[0]
    victims = [next(sample.id for sample in idle.samples() if sample.cluster == gone.cluster)]
    passes = before_computing(monkeypatch, lambda: victims and idle.erase(victims.pop()))
    after = answered(engine.run(asked))
    affected = sum(answer.prompt == gone.prompt for answer in before)
    assert passes == [24, affected]
    assert gone.prompt not in {answer.prompt for answer in after}
    assert sum(answer.degraded for answer in after) == affected


def test_what_was_answered_in_an_earlier_round_is_checked_again_with_the_last(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch leaves as one: who was answered first has waited for those who were computed again."""
    asked = queries(idle, 24)
    before = answered(engine.run(asked))
    clusters = list(dict.fromkeys(answer.cluster for answer in before))[:2]
    victims = [next(sample.id for sample in idle.samples() if sample.cluster == cluster) for cluster in clusters]
    gone = {cluster.serving_key for cluster in idle.clusters() if cluster.id in clusters}
    before_computing(monkeypatch, lambda: victims and idle.erase(victims.pop()))
    after = answered(engine.run(asked))
    assert victims == []
    assert not gone & {answer.prompt for answer in after}


def test_a_prompt_that_is_built_again_while_it_is_read_is_not_given_up(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idle.context.registry.write() as session:
        session.execute(sa.update(ClusterRow).values(rebuild=True))
    idle.reconcile()
    store, read = idle.context.store, idle.context.store.get
    pending = [True]

    def get(name: str) -> bytes:
        if name.startswith("prompts/") and pending:
            pending.pop()
            idle.settle()  # every prompt is replaced by one of the same key, and this object destroyed
        return read(name)

    monkeypatch.setattr(store, "get", get)
    take_snapshot(idle.context, None)
    assert None not in {cluster.serving_key for cluster in idle.clusters()}
    assert len(take_snapshot(idle.context, None).served) == len(idle.clusters())


def test_a_retraining_published_meanwhile_answers_with_the_new_prompt(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = [True]

    def replace_all() -> None:
        if pending:
            pending.pop()
            withdraw_all(idle)
            idle.settle()

    asked = queries(idle, 6)
    before_computing(monkeypatch, replace_all)
    for answer in answered(engine.run(asked)):
        assert answer.prompt in idle.serving_keys()
        assert not answer.degraded


def test_withdrawals_without_end_are_given_up_in_the_end(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_all() -> None:
        withdraw_all(idle)
        idle.settle()

    idle.add(30)
    idle.settle()
    monkeypatch.setattr(engine_module, "ROUNDS", 3)
    passes = before_computing(monkeypatch, replace_all)
    (refused,) = engine.run(queries(idle, 1))
    assert isinstance(refused, Unavailable)
    assert passes == [1, 1, 1]


def test_an_erasure_of_another_cluster_changes_no_answer(
    idle: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = queries(idle, 1)
    (before,) = answered(engine.run(asked))
    victims = [next(sample.id for sample in idle.samples() if sample.cluster != before.cluster)]
    passes = before_computing(monkeypatch, lambda: victims and idle.erase(victims.pop()))
    assert answered(engine.run(asked)) == [before]
    assert passes == [1]


# --------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_is_kept_while_the_epoch_stands_and_keeps_what_both_share(idle: World) -> None:
    first = take_snapshot(idle.context, None)
    assert take_snapshot(idle.context, first) is first
    idle.erase(next(iter(idle.survivors)))
    second = take_snapshot(idle.context, first)
    assert second.epoch > first.epoch
    assert len(second.served) == len(first.served) - 1
    assert all(second.loaded[name] is first.loaded[name] for name in second.loaded)
    assert len(second.loaded) == len(second.keys)
    assert set(second.keys) == set(idle.serving_keys())


def test_additions_alone_do_not_move_the_epoch(idle: World) -> None:
    first = take_snapshot(idle.context, None)
    idle.add(1)
    assert take_snapshot(idle.context, first) is first


def test_a_prompt_withdrawn_while_it_is_read_is_not_taken_for_damaged(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = idle.context.store.get
    victims = [next(iter(idle.survivors))]

    def get(name: str) -> bytes:
        if victims:
            idle.erase(victims.pop())
            idle.reconcile()
        return read(name)

    monkeypatch.setattr(idle.context.store, "get", get)
    snapshot = take_snapshot(idle.context, None)
    served = {row.key for row in snapshot.rows if row is not None}
    assert served >= set(idle.serving_keys())
    assert set(take_snapshot(idle.context, snapshot).keys) == set(idle.serving_keys())


def test_places_before_the_first_and_behind_the_last_region_have_no_cluster(idle: World) -> None:
    snapshot = take_snapshot(idle.context, None)
    end = snapshot.clusters[-1].hi
    assert (snapshot.covering(-1), snapshot.covering(end)) == (None, None)
    assert snapshot.covering(0) == 0
    assert snapshot.covering(end - 1) == len(snapshot.clusters) - 1

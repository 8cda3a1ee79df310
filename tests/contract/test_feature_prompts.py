"""A service with feature prompts: plan, answers, erasures and audit are those of any prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.activations import activations
from models.spec import FEATURE
from service.core import erasure
from service.core.audit import Scope, audit
from service.errors import Misconfigured
from service.serving.engine import Answer, Engine, Query
from tests.world import MakeWorld, World, settings

TRAINING = {"prompt_kind": FEATURE, "epochs": 2}


@pytest.fixture
def features(make_world: MakeWorld) -> World:
    """Forty samples in several clusters, each with a feature prompt."""
    world = make_world(training=TRAINING)
    world.add(40)
    world.settle()
    return world


def queries(world: World, count: int) -> list[Query]:
    new_samples = world.new_samples(count)
    resize = world.context.backbone.preprocessing.resize
    return [Query(resize(new_sample.pixels), new_sample.digest) for new_sample in new_samples]


def scores_of(answers: list[Answer]) -> list[dict[str, float]]:
    return [dict(answer.scores) for answer in answers]


def test_deleted_is_never_contributed_and_the_audit_agrees(features: World) -> None:
    for sample_id in list(features.survivors)[::5]:
        features.erase(sample_id)
    features.settle()
    features.check()
    assert list(audit(features.context, Scope(embeddings=True, rebuild_all=True))) == []


def test_a_batch_that_mixes_clusters_is_answered_as_each_prompt_alone_would(features: World) -> None:
    engine = Engine(features.context)
    engine.warm_up((1, 16))
    asked = queries(features, 16)
    answers = [answer for answer in engine.run(asked) if isinstance(answer, Answer)]
    assert len(answers) == 16
    assert len({answer.prompt for answer in answers}) > 1
    assert {answer.tier for answer in answers} == {"prompt"}
    snapshot, backbone = engine.refresh(), features.context.backbone
    late = backbone.cuts.at(None)
    for query, answer in zip(asked, answers, strict=True):
        row = next(row for row in snapshot.live if row.key == answer.prompt)
        shown = activations(backbone, late, query.image[None])
        (alone,) = snapshot.bank.probabilities(backbone, shown, torch.tensor([row.index])).tolist()
        expected = dict(zip(row.labels, alone, strict=False))
        assert dict(answer.scores) == pytest.approx(expected, abs=1e-5)


def test_an_erasure_withdraws_the_prompts_that_saw_the_sample_at_once(features: World) -> None:
    engine = Engine(features.context)
    asked = queries(features, 12)
    before = {answer.prompt for answer in engine.run(asked) if isinstance(answer, Answer)}
    withdrawn = {cluster.serving_key for cluster in features.clusters()}
    features.erase(*{sample.cluster: sample.id for sample in features.samples()}.values())
    assert before <= withdrawn
    assert not any(isinstance(answer, Answer) and answer.prompt for answer in engine.run(asked))


def test_another_kind_of_prompt_is_another_plan_and_both_can_follow_each_other(features: World) -> None:
    built = set(features.serving_keys())
    features.restart(training={"prompt_kind": "padding", "epochs": 1, "prompt_size": 2, "settle_seconds": 0})
    features.settle()
    features.check()
    assert not built & set(features.serving_keys())
    features.restart(training={"settle_seconds": 0, "batch_size": 8, **TRAINING})
    features.settle()
    features.check()
    assert set(features.serving_keys()) == built


def test_a_training_that_diverges_is_shown_with_its_remedy(make_world: MakeWorld) -> None:
    world = make_world(training={**TRAINING, "prompt_lr": 1e30, "head_lr": 1e30})
    world.add(8)
    world.reconcile()
    world.train()
    (cluster,) = world.clusters()
    assert cluster.serving_key is None
    assert cluster.failure == "Training diverged. Lower training.prompt_lr or training.head_lr."


def test_a_cut_that_the_backbone_does_not_have_is_refused_in_words(make_world: MakeWorld) -> None:
    with pytest.raises(Misconfigured, match="The cut must be 1 to 1 for this backbone, not 7"):
        make_world(training={**TRAINING, "cut": 7})


def test_a_worker_that_dies_while_it_trains_leaves_nothing_behind(features: World) -> None:
    features.add(4)
    features.time.advance(60)
    features.reconcile()
    for step in ("build", "epoch 1", "store", "commit"):
        assert features.kill_at(step)
        features.time.advance(3600)
    features.settle()
    features.check()


def test_quotes_count_epochs_by_the_size_of_each_cluster(make_world: MakeWorld) -> None:
    world = make_world(training={"prompt_kind": FEATURE, "epochs": None})
    world.add(20)
    world.reconcile()
    quoted = erasure.quote(world.context, sample_ids=list(world.survivors)[:1])
    assert quoted.full_sample_epochs == 19 * 12


def test_the_settings_of_feature_prompts_name_what_is_trained(tmp_path: Path) -> None:
    folder = tmp_path
    spec = settings(folder, training={"prompt_kind": FEATURE, "epochs": None, "prompt_size": 5}).training.spec()
    same = settings(folder, training={"prompt_kind": FEATURE, "epochs": None, "prompt_size": 6}).training.spec()
    cut = settings(folder, training={"prompt_kind": FEATURE, "epochs": None, "cut": 1}).training.spec()
    assert spec == same  # a frame's width says nothing of features
    assert (spec.epochs, spec.prompt_lr, spec.prompt.cut) == (None, 0.05, None)
    assert len({spec.digest(), cut.digest()}) == 2
    pixels = settings(folder, training={"epochs": None}).training.spec()
    assert (pixels.epochs, pixels.prompt_lr, pixels.solved_below) == (6, 0.03, 0)

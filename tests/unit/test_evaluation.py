"""The methods of `oubli evaluate`: each is a pure function of who is left, and forgets what it is told to forget."""

import dataclasses

import numpy as np
import pytest
import torch

from models.closed_form import solve
from models.spec import ClosedFormSpec, PromptSpec, TrainingSpec
from service.core.plan import Survivor, locate, plan
from service.evaluation import forgetting, learners, trial
from service.evaluation.clustered import Fused
from service.evaluation.data_sets import load_data_set
from service.evaluation.forgetting import costs, expected_cost
from service.evaluation.membership import attack, rmia
from service.evaluation.method import CHOSEN, Budget, Part, Setting
from service.evaluation.methods import METHODS, make_method
from service.evaluation.pool import describe_pool
from service.evaluation.sharded import _sisa_epochs
from service.evaluation.trial import Scale, as_never_told
from service.evaluation.workshop import build

COUNT = 160
TRAINING = TrainingSpec(epochs=2, prompt=PromptSpec(size=2))
BUDGET = Budget(
    training=TRAINING, cap=40, min=10, anchors=40, threshold=0.6, shards=3, slices=2, feature_epochs=2, core=40
)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return load_data_set("digits", root=tmp_path_factory.mktemp("data"), train=480, test=60)


@pytest.fixture(scope="session")
def samples(tiny, data):
    return describe_pool(tiny, data.train)


@pytest.fixture(scope="session")
def pool(samples):
    return samples.take(range(COUNT))


@pytest.fixture(scope="session")
def queries(tiny, data):
    return describe_pool(tiny, data.test)


@pytest.fixture(scope="session")
def setting(tiny, pool):
    return Setting(tiny, pool, BUDGET)


@pytest.fixture(scope="session")
def budget(setting):
    """With as many clusters by chance as the tree has of all samples, whichever are left."""
    return dataclasses.replace(BUDGET, clusters=len(Fused(setting).prompts.parts(range(COUNT))))


@pytest.fixture(scope="session")
def make(tiny, budget):
    """make(name)(pool): that method, of those samples."""
    return lambda name: lambda pool: make_method(name, Setting(tiny, pool, budget))


@pytest.fixture(scope="session")
def works(make, pool):
    """Each method with all samples, built once."""
    return {name: build(make(name)(pool), range(COUNT)) for name in METHODS}


# ------------------------------------------------------------------------------------------------------ every method


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_answers(name, make, pool, queries, works):
    said = make(name)(pool).answer(range(COUNT), works[name].built, queries)
    assert said.shape == (len(queries), 10)
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    assert (said >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_its_parts_are_a_function_of_who_is_left(name, make, pool):
    first, again = (make(name)(pool).parts(range(0, COUNT, 3)) for _ in range(2))
    assert first == again
    assert {row for part in first for row in part.rows} == set(range(0, COUNT, 3))


@pytest.mark.parametrize("name", METHODS)
def test_forgetting_builds_what_was_never_told(name, make, pool, works):
    left = [row for row in range(COUNT) if row not in (5, 77)]
    work = build(make(name)(pool), left, before=works[name].built)
    assert not {5, 77} & {row for part in work.parts for row in part.rows}
    assert as_never_told(make(name), pool.take(left), work)


@pytest.mark.parametrize("name", METHODS)
def test_what_it_costs_is_what_is_built(name, make, pool, works):
    method = make(name)(pool)
    left = [row for row in range(COUNT) if row != 5]
    work = build(method, left, before=works[name].built)
    spent = sum(work.built[key].sample_epochs for key in work.new)
    assert spent == work.sample_epochs
    before = {part.key: part for part in method.parts(range(COUNT))}
    assert forgetting._compare(method, COUNT, [5], before)[0] == spent


@pytest.mark.parametrize("name", ["tree", "random_part_tuning", "sisa", "head_only", "feature_tree"])
def test_what_is_not_touched_is_kept(name, make, pool, works):
    left = [row for row in range(COUNT) if row != 5]
    work = build(make(name)(pool), left, before=works[name].built)
    assert 0 < len(work.new) < len(work.parts)


def test_whoever_is_not_in_the_core_is_forgotten_without_training(make, pool, works):
    method = make("core")(pool)
    adapter = works["core"].parts[0]
    assert adapter.rows == tuple(range(40))
    outside, inside = [row for row in range(COUNT) if row != 77], [row for row in range(COUNT) if row != 5]
    assert build(method, outside, before=works["core"].built).sample_epochs == 0
    again = build(method, inside, before=works["core"].built)
    assert again.sample_epochs == 40 * BUDGET.feature_epochs
    assert again.parts[0].rows == (*range(5), *range(6, 41))


def test_a_closed_form_beside_others_is_no_model_that_a_deletion_trains_again(works):
    expected = {"core": (1, 40**2 / COUNT), "feature_prompt": (1, COUNT), "ridge": (1, COUNT), "linear": (1, COUNT)}
    for name, (count, cost) in expected.items():
        parts = works[name].parts
        assert (len(forgetting.models(parts)), expected_cost(parts, COUNT)) == (count, cost)


def test_a_core_of_other_pictures_is_trained_once(tiny, budget, pool, samples, queries):
    others = samples.members[COUNT : COUNT + 30]
    method = make_method("core", Setting(tiny, pool, budget, core=others))
    work = build(method, range(COUNT))
    assert work.sample_epochs == 30 * BUDGET.feature_epochs
    left = [row for row in range(COUNT) if row not in (0, 5, 77)]
    again = build(method, left, before=work.built)
    assert again.sample_epochs == 0
    assert as_never_told(
        lambda known: make_method("core", Setting(tiny, known, budget, core=others)), pool.take(left), again
    )
    other = make_method("core", Setting(tiny, pool, budget, core=others[:-1]))
    assert other.parts(range(COUNT))[0].key != method.parts(range(COUNT))[0].key
    assert method.answer(left, again.built, queries).shape == (len(queries), 10)


def test_the_cores_closed_form_is_of_what_the_adapted_backbone_sees(make, pool, queries, works):
    """With a prompt of zeros the descriptors are those of the frozen backbone's late blocks."""
    method = make("core")(pool).prompts
    prompt, ridge = method.parts(range(COUNT))
    built = works["core"].built
    still = dataclasses.replace(built[prompt.key], tensors={"values": torch.zeros((2, 32))})
    adapted, frozen = (method._describe(learned, queries) for learned in (built[prompt.key], still))
    assert not np.array_equal(adapted, frozen)
    assert np.array_equal(method._describe(built[prompt.key], queries.take([7])), adapted[[7]])

    assert built[ridge.key].tensors["weight"].shape[0] == frozen.shape[1]


def test_two_that_are_pooled_are_heard_alike(make, pool, queries, works):
    method, built = make("feature_prompt")(pool), works["feature_prompt"].built
    said = [part.answer(range(COUNT), built, queries) for part in (method.prompts, method._beside)]
    product = np.sqrt(said[0] * said[1])
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(method.answer(range(COUNT), built, queries), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["retrain", "one_prompt", "linear", "feature_prompt"])
def test_what_learns_everything_at_once_starts_again(name, make, pool):
    (one, *_) = costs(make(name)(pool), COUNT, seed=0)
    assert one.sample_epochs == (COUNT - 1) * BUDGET.training.epochs


def test_the_ridge_answers_with_the_lambda_and_temperature_that_its_samples_choose(samples, queries):
    learned = learners.build_ridge(CHOSEN, samples)
    order = np.random.default_rng(1).permutation(len(samples)).tolist()
    assert learners.build_ridge(CHOSEN, samples.take(order)).digest == learned.digest
    fixed = learners.build_ridge(ClosedFormSpec(), samples)
    assert fixed.tensors["settings"].tolist() == [0.1, 0.1]
    ridge, temperature = learned.tensors["settings"].tolist()
    assert (ridge, temperature) != (0.1, 0.1)
    solved = solve(learners.accumulators(samples), ridge=ridge)
    expected = solved.scores(queries.descriptors, temperature)
    np.testing.assert_allclose(learners.ask_ridge(learned, queries), expected, rtol=1e-9)


def test_the_ridge_trains_nothing(make, pool):
    assert [cost.sample_epochs for cost in costs(make("ridge")(pool), COUNT, seed=0)] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["lmeraser", "random_part_tuning", "tree"])
def test_clusters_are_those_that_the_service_plans(name, make, pool, tiny):
    """Though layouts are kept from one plan to the next: with all samples, with fewer and fewer, with all again."""
    method = make(name)(pool)
    partition = (method.prompts if isinstance(method, Fused) else method)._partition
    for survivors in (range(COUNT), range(1, COUNT), range(0, COUNT, 2), range(0, COUNT, 5), range(COUNT)):
        digests = [pool.digests[i] for i in survivors]
        owners = [""] * len(digests)
        positions = locate(digests, owners, pool.embeddings[list(survivors)], partition=partition)
        labels = [pool.members[i].label for i in survivors]
        recorded = [Survivor(*facts) for facts in zip(digests, labels, positions, strict=True)]
        planned = plan(recorded, partition=partition, backbone_digest=tiny.digest, training=TRAINING)
        expected = [(cluster.key, cluster.region, tuple(survivors[i] for i in cluster.members)) for cluster in planned]
        parts = forgetting.models(method.parts(survivors))
        assert [(part.key, part.region, part.rows) for part in parts] == expected


def test_an_unknown_method_lists_the_known_ones(setting):
    with pytest.raises(ValueError, match=rf"'erase'. Known: {', '.join(METHODS)}"):
        make_method("erase", setting)


def test_random_clusters_are_as_many_as_the_trees(setting):
    tree, by_chance = (make_method(name, setting).parts(range(COUNT)) for name in ("head_only", "random_part_tuning"))
    assert len(tree) == len(by_chance) > 3


@pytest.mark.parametrize("kind", ["padding", "fixed_patch", "random_patch"])
def test_every_kind_of_prompt_can_be_evaluated(kind, tiny, pool, queries):
    training = dataclasses.replace(BUDGET.training, prompt=PromptSpec(kind=kind, size=4, init_std=1.0))
    method = make_method("one_prompt", Setting(tiny, pool, dataclasses.replace(BUDGET, training=training)))
    work = build(method, range(40))
    assert method.answer(range(40), work.built, queries).shape == (len(queries), 10)


# -------------------------------------------------------------------------------------------------------------- SISA


@pytest.mark.parametrize(("epochs", "slices"), [(6, 3), (4, 3), (6, 2), (3, 2), (6, 1)])
def test_slices_spend_what_all_at_once_would(epochs, slices):
    chosen = _sisa_epochs(epochs, slices)
    assert sum(e * (number + 1) / slices for number, e in enumerate(chosen)) == epochs


def test_a_deletion_starts_again_at_its_slice(make, pool):
    method = make("sisa")(pool)
    before = method.parts(range(COUNT))
    last = max((part for part in before if part.after is not None), key=lambda part: len(part.rows))
    first = next(part for part in before if part.key == last.after)
    (only_in_last,) = list(set(last.rows) - set(first.rows))[:1]
    after = {part.key for part in method.parts([row for row in range(COUNT) if row != only_in_last])}
    assert first.key in after
    assert last.key not in after


def test_slices_go_on_where_the_one_before_ended(make, pool, works):
    work = works["sisa"]
    last = next(part for part in work.parts if part.after is not None)
    method = make("sisa")(pool)
    alone = method.build(dataclasses.replace(last, after=None), {}, lambda done, steps: None)
    assert alone.digest != work.built[last.key].digest


# -------------------------------------------------------------------------------------------------- trial and attack


@pytest.mark.parametrize("name", ["tree", "linear"])
def test_a_trial_finds_that_it_is_exact(name, tiny, samples):
    figures = trial.run(name, Setting(tiny, samples, BUDGET), Scale(members=96, references=1))
    assert figures["exact"] == {"one": True, "half": True}
    assert figures["attack_after"]["low"] < 0.5 < figures["attack_after"]["high"]


def test_what_remembers_is_found_out(make, pool, works):
    """A method that keeps what had seen the sample: the check can fail."""

    class Remembers:
        def __init__(self, method):
            self._method = method

        def __getattr__(self, name):
            return getattr(self._method, name)

        def parts(self, survivors):
            return [dataclasses.replace(part, key=f"part {n}") for n, part in enumerate(self._method.parts(survivors))]

    def keeps(pool):
        return Remembers(make("linear")(pool))

    before = build(keeps(pool), range(COUNT))
    left = list(range(COUNT - 1))
    work = build(keeps(pool), left, before=before.built)
    assert not as_never_told(keeps, pool.take(left), work)


def test_the_attack_sees_who_was_learned_by_heart_and_nobody_else():
    random = np.random.default_rng(0)
    references = random.uniform(0.2, 0.6, (3, 200))
    others, references_others = random.uniform(0.2, 0.6, 200), random.uniform(0.2, 0.6, (3, 200))
    by_heart = rmia(references[0] + 0.35, references, others, references_others)
    unseen = rmia(references[0], references, others, references_others)
    assert attack(by_heart, unseen).low > 0.8
    again = attack(unseen[:100], unseen[100:])
    assert again.low < 0.5 < again.high


def test_expected_cost_counts_who_shares_a_model():
    parts = [Part(str(n), tuple(range(n)), 0) for n in (10, 30)]
    assert expected_cost(parts, 40) == (100 + 900) / 40


def test_the_area_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    ones, zeros = random.integers(0, 9, 50).astype(float), random.integers(0, 7, 40).astype(float)
    expected = roc_auc_score([1] * 50 + [0] * 40, np.concatenate([ones, zeros]))
    assert attack(ones, zeros).auc == pytest.approx(expected)

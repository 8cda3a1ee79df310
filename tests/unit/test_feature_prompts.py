"""Feature prompts: training is a pure function, a batch that mixes them is answered as each would, and odd clusters."""

import dataclasses

import numpy as np
import pytest
import torch

from models import activations as activations_module
from models import head
from models.activations import MemberActivations, activations
from models.backbone import Backbone, Preprocessing
from models.bank import PromptBank, kept_for, shown_to, stack
from models.checkpoint import CheckpointMismatch, Identity, load, save, tensor_digest
from models.descent import Order
from models.prompt import values_shape
from models.spec import FEATURE, PromptSpec, TrainingSpec
from models.training import train
from tests.unit.test_late import network_of

SPEC = TrainingSpec(epochs=3, batch_size=8, prompt_lr=0.05, prompt=PromptSpec(FEATURE, 0), solved_below=200)
SGD = dataclasses.replace(SPEC, solved_below=0)
LABELS = ("a", "b", "c", "d", "e")


def pictures_of(backbone, members):
    return torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])


def features_of(backbone, prompt, pictures):
    late = backbone.cuts.at(None)
    with torch.no_grad():
        return late.late(activations(backbone, late, pictures), prompt.values[None])


def accuracy(backbone, spec, prompt, members):
    bank = stack(backbone, spec, {"key": prompt})
    shown = shown_to(backbone, spec, pictures_of(backbone, members))
    chosen = bank.probabilities(backbone, shown, torch.zeros(len(members), dtype=torch.int64)).argmax(1)
    return np.mean([prompt.labels[label] == member.label for label, member in zip(chosen, members, strict=True)])


# ------------------------------------------------------------------------------------------------ a pure function


@pytest.mark.parametrize("spec", [SPEC, SGD], ids=["solved", "sgd"])
def test_the_same_members_give_the_same_bits_and_others_give_others(spec, tiny, toy, bits):
    steps = []
    first = train(tiny, spec, key="key", members=toy(20), progress=lambda *step: steps.append(step))
    torch.manual_seed(123)
    assert bits(train(tiny, spec, key="key", members=toy(20))) == bits(first)
    assert bits(train(tiny, spec, key="other", members=toy(20))) != bits(first)
    assert bits(train(tiny, spec, key="key", members=toy(20)[:-1])) != bits(first)
    assert first.values.shape == (2, 32)
    assert first.values.abs().max() > 0
    assert (first.members, first.sample_epochs) == (20, 60)
    assert steps == [(done, 9) for done in range(1, 10)]


def test_activations_computed_anew_give_the_bits_of_those_that_were_kept(tiny, toy, bits, monkeypatch):
    kept = train(tiny, SPEC, key="key", members=toy(20))
    monkeypatch.setattr(activations_module, "MOST_KEPT", 0)
    assert bits(train(tiny, SPEC, key="key", members=toy(20))) == bits(kept)


@pytest.mark.parametrize("flip", [False, True])
def test_both_ways_show_the_views_that_a_batch_names(tiny, toy, flip):
    pictures, late = pictures_of(tiny, toy(20)), tiny.cuts.at(None)
    kept = MemberActivations(tiny, late, pictures, flip=flip)
    anew = MemberActivations(tiny, late, pictures, flip=flip, most=0)
    batches = list(Order(dataclasses.replace(SPEC, flip=flip), "key", 20).batches(0))
    assert any(batch.mirrored.any() for batch in batches) == flip
    for batch in batches:
        views = torch.stack([pictures[row].flip(2) if m else pictures[row] for row, m in zip(*batch[:2], strict=True)])
        assert torch.equal(kept.of(batch), activations(tiny, late, views))
        assert torch.equal(anew.of(batch), kept.of(batch))


def test_the_backbone_is_never_changed(tiny, toy):
    before = tiny.weights_digest()
    prompt = train(tiny, SPEC, key="key", members=toy(12))
    assert tiny.weights_digest() == before
    assert not any(tensor.requires_grad for tensor in (prompt.values, prompt.weight, prompt.bias))


def test_a_callers_exception_ends_the_training(tiny, toy):
    def stop(done, steps):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train(tiny, SPEC, key="key", members=toy(12), progress=stop)


# ------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("spec", [SPEC, SGD], ids=["solved", "sgd"])
def test_it_learns_to_tell_classes_apart(spec, tiny, toy):
    prompt = train(tiny, spec, key="key", members=toy(40))
    assert prompt.labels == ("green", "red")
    assert accuracy(tiny, spec, prompt, toy(100, seed=1)) > 0.9


def test_the_prompt_itself_lowers_the_loss(tiny, toy):
    """With one head: what remains with the prompt is less than without it."""
    members = toy(40)
    prompt = train(tiny, dataclasses.replace(SGD, epochs=30), key="key", members=members)
    pictures = pictures_of(tiny, members)
    targets = torch.tensor([prompt.labels.index(member.label) for member in members])

    def loss(of):
        scores = head.logits(features_of(tiny, of, pictures), prompt.weight, prompt.bias, SGD.scale)
        return float(torch.nn.functional.cross_entropy(scores, targets))

    assert loss(prompt) < 0.97 * loss(dataclasses.replace(prompt, values=torch.zeros_like(prompt.values)))


def test_small_clusters_have_their_heads_solved_and_large_ones_keep_that_of_the_descent(tiny, toy, bits):
    below = dataclasses.replace(SPEC, solved_below=21)
    assert train(tiny, below, key="key", members=toy(20)).bias.abs().max() == 0
    sgd = train(tiny, dataclasses.replace(SPEC, solved_below=20), key="key", members=toy(20))
    assert bits(sgd) == bits(train(tiny, SGD, key="key", members=toy(20)))
    assert sgd.bias.abs().max() > 0


def test_epochs_depend_on_how_many_members_there_are_unless_they_are_given(tiny, toy):
    by_rule = dataclasses.replace(SPEC, epochs=None)
    counts = (1, 100, 1_999, 2_000, 4_000, 8_000, 1_000_000)
    assert [by_rule.epochs_of(count) for count in counts] == [12, 12, 12, 8, 5, 3, 3]
    assert [SPEC.epochs_of(count) for count in counts] == [3] * 7
    assert train(tiny, by_rule, key="key", members=toy(4)).sample_epochs == 48


# ---------------------------------------------------------------------------------------------------- odd clusters


def test_a_single_label_needs_no_training(tiny, toy):
    steps = []
    members = toy(10)[::2]
    prompt = train(tiny, SPEC, key="key", members=members, progress=lambda *step: steps.append(step))
    assert (prompt.labels, prompt.sample_epochs, steps) == (("red",), 0, [])
    assert prompt.values.shape == (2, 32)
    assert prompt.values.abs().max() == 0
    assert accuracy(tiny, SPEC, prompt, members) == 1.0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_clusters_are_trained(tiny, toy, count):
    prompt = train(tiny, SPEC, key="key", members=toy(count))
    assert prompt.is_finite
    assert prompt.members == count
    assert accuracy(tiny, SPEC, prompt, toy(count)) == 1.0


def test_the_same_picture_under_two_labels_is_trained(tiny, toy):
    twice = [dataclasses.replace(toy(1)[0], label=label) for label in ("one", "other")]
    assert train(tiny, SPEC, key="key", members=twice).is_finite


def test_a_training_that_diverges_says_so_and_raises_nothing(tiny, toy):
    for spec in (SPEC, SGD):
        wild = dataclasses.replace(spec, prompt_lr=1e30, head_lr=1e30)
        assert not train(tiny, wild, key="key", members=toy(20)).is_finite


def test_a_cluster_without_members_has_no_prompt(tiny):
    with pytest.raises(ValueError, match="without members"):
        train(tiny, SPEC, key="key", members=[])


# -------------------------------------------------------------------------------------------------------- the bank


@pytest.fixture(scope="module")
def prompts(tiny, toy):
    """Feature prompts with one, two, three and five labels."""

    def built(count):
        members = [dataclasses.replace(member, label=LABELS[i % count]) for i, member in enumerate(toy(16))]
        wild = dataclasses.replace(SPEC, prompt_lr=0.5)  # far from each other
        return train(tiny, wild, key=str(count), members=members)

    return {f"key-{count}": built(count) for count in (2, 1, 5, 3)}


@pytest.fixture(scope="module")
def shown(tiny, images):
    pictures = torch.stack([tiny.preprocessing.resize(pixels) for pixels in images.pixels[:20]])
    return shown_to(tiny, SPEC, pictures)


def rows_of(bank, count):
    indices = torch.tensor([row.index for row in bank.rows.values()])
    return indices[torch.arange(count) % len(indices)]


def test_a_mixed_batch_is_answered_as_one_by_one(tiny, prompts, shown):
    bank = stack(tiny, SPEC, prompts)
    rows = rows_of(bank, 20)
    late = tiny.cuts.at(None)
    key_of = {row.index: row.key for row in bank.rows.values()}
    for answer, activation, index in zip(bank.probabilities(tiny, shown, rows), shown, rows.tolist(), strict=True):
        prompt = prompts[key_of[index]]
        with torch.no_grad():
            features = late.late(activation[None], prompt.values[None])
            expected = head.logits(features, prompt.weight, prompt.bias, SPEC.scale).softmax(dim=1)[0]
        torch.testing.assert_close(answer[: len(expected)], expected)
        assert (answer[len(expected) :] == 0).all()


def test_a_rows_bits_do_not_depend_on_the_prompts_of_its_neighbours(tiny, prompts, shown):
    bank = stack(tiny, SPEC, prompts)
    rows = rows_of(bank, 16)
    mixed = bank.probabilities(tiny, shown[:16], rows)
    assert len({mixed[row].numpy().tobytes() for row in range(16)}) == 16 - 3  # those with one label say the same
    for index in set(rows.tolist()):
        alone = bank.probabilities(tiny, shown[:16], torch.full((16,), index))
        assert torch.equal(alone[rows == index], mixed[rows == index])


def test_a_row_that_was_left_holds_the_frozen_network_and_no_head(tiny, prompts, shown):
    bank = stack(tiny, SPEC, prompts)
    left = bank.rows["key-5"].index
    bank.drop("key-5")
    assert not bank._stack.prompts[left].any()
    assert not bank._stack.weights[left].any()


def test_room_grows_by_doubling_and_swaps_take_no_more(tiny, prompts):
    bank = PromptBank(tiny, SPEC)
    for number in range(20):
        bank.put(str(number), prompts["key-2"])
    for number in range(100):
        bank.drop(str(number))
        bank.put(str(number + 20), prompts[f"key-{(1, 2, 3, 5)[number % 4]}"])
    assert (bank.room, len(bank.rows)) == (32, 20)


def test_a_bank_of_pixels_keeps_no_activations(spec):
    assert kept_for(spec) is None
    assert kept_for(SPEC).activations == []


@pytest.mark.parametrize("kind", ["cnn", "vit", "swin"])
def test_networks_of_every_kind_are_trained_and_answer_mixed_batches(kind, deterministic, toy, bits):
    network, pictures = network_of(kind)
    with torch.no_grad():
        dim = network(pictures).shape[1]
    half = Preprocessing(pictures.shape[2], (0.5,) * 3, (0.5,) * 3)
    classifier = torch.randn((4, dim), generator=torch.Generator().manual_seed(1))
    backbone = Backbone(name=kind, network=network, classifier=classifier, preprocessing=half, device="cpu")
    before, spec = backbone.weights_digest(), dataclasses.replace(SPEC, epochs=2)
    first, again, other = (train(backbone, spec, key=key, members=toy(10)) for key in ("a", "a", "b"))
    assert bits(first) == bits(again) != bits(other)
    assert first.is_finite
    assert first.values.abs().max() > 0
    assert backbone.weights_digest() == before
    bank = stack(backbone, spec, {"first": first, "other": other})
    rows = rows_of(bank, 10)
    shown = shown_to(backbone, spec, pictures_of(backbone, toy(10, seed=2)))
    mixed = bank.probabilities(backbone, shown, rows)
    for index in set(rows.tolist()):
        alone = bank.probabilities(backbone, shown, torch.full((10,), index))
        assert torch.equal(alone[rows == index], mixed[rows == index])


# ----------------------------------------------------------------------------------------- keys, settings, artifacts


def test_the_digest_names_the_cut_and_the_method():
    specs = [SPEC, dataclasses.replace(SPEC, prompt=PromptSpec(FEATURE, 0, cut=1)), dataclasses.replace(SPEC, epochs=6)]
    assert len({spec.digest() for spec in [*specs, dataclasses.replace(SPEC, solved_below=1)]}) == 4
    assert "cut" not in PromptSpec.__dataclass_fields__ or "cut" not in TrainingSpec().record()["prompt"]


def test_an_artifact_is_for_one_backbone_and_one_cut(tiny, toy):
    prompt = train(tiny, SPEC, key="key", members=toy(8))
    identity = Identity(tiny.digest, tiny.dim, values_shape(SPEC.prompt, tiny), SPEC)
    data = save(prompt, key="key", identity=identity, fingerprint={}, seconds=1.0)
    wanted = {"key": "key", "digest": tensor_digest(prompt), "labels": prompt.labels}
    assert torch.equal(load(data, identity=identity, **wanted).values, prompt.values)
    for other in ({"shape": (2, 31)}, {"training": dataclasses.replace(SPEC, prompt=PromptSpec(FEATURE, 0, cut=1))}):
        with pytest.raises(CheckpointMismatch):
            load(data, identity=dataclasses.replace(identity, **other), **wanted)

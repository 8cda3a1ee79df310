"""Training is a pure function; only the prompt and its head learn; and they do learn."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import head
from models.bank import stack
from models.prompt import covered_pixels, expand
from models.spec import PromptSpec, TrainingSpec
from models.training import TrainingExample, train, values_digest

ROOT = Path(__file__).resolve().parents[2]


def accuracy(backbone, spec, prompt, members):
    """Share of members whose label a served prompt names."""
    images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
    bank = stack(backbone, spec, {"key": prompt})
    chosen = bank.probabilities(backbone, images, torch.zeros(len(members), dtype=torch.int64)).argmax(1)
    return np.mean([prompt.labels[label] == member.label for label, member in zip(chosen, members, strict=True)])


def cross_entropy(backbone, spec, prompt, members):
    """Loss of the prompt on un-augmented members."""
    images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
    frame = expand(prompt.values, covered_pixels(spec.prompt, backbone.input_size), backbone.input_size)
    with torch.inference_mode():
        features = backbone.features(backbone.preprocessing.normalise(images) + frame)
        scores = head.logits(features, prompt.weight, prompt.bias, spec.scale)
    targets = torch.tensor([prompt.labels.index(member.label) for member in members])
    return float(torch.nn.functional.cross_entropy(scores, targets))


# ------------------------------------------------------------------------------------------------ a pure function


@pytest.mark.parametrize("kind", ["fixed_patch", "random_patch"])
def test_patches_learn_and_repeat(kind, tiny, spec, toy, bits):
    spec = dataclasses.replace(spec, prompt=PromptSpec(kind=kind, size=5))
    trained = train(tiny, spec, key="key", members=toy(20))
    assert trained.values.shape == (3, 25)
    assert trained.values.abs().min() > 0
    assert bits(train(tiny, spec, key="key", members=toy(20))) == bits(trained)


def test_decay_draws_a_prompt_towards_none_and_smoothing_makes_a_head_less_sure(tiny, spec, toy, trained):
    decayed = train(tiny, dataclasses.replace(spec, prompt_decay=10.0), key="key", members=toy(20))
    assert decayed.values.norm() < 0.5 * trained.values.norm()
    smoothed = train(tiny, dataclasses.replace(spec, label_smoothing=0.5), key="key", members=toy(20))
    assert smoothed.weight.norm() < 0.8 * trained.weight.norm()


def test_noise_to_start_from_is_drawn_from_the_key(tiny, spec, toy, bits):
    spec = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, init_std=1.0))
    only = [member for member in toy(20) if member.label == toy(20)[0].label]  # nothing is learned of one label
    first, again, other = (train(tiny, spec, key=key, members=only).values for key in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.8 < float(first.std()) < 1.2


def test_a_prompt_starts_from_given_values_only_if_the_spec_names_them(tiny, spec, toy):
    values = torch.full((3, len(covered_pixels(spec.prompt, tiny.input_size))), 0.5)
    named = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, start=values_digest(values)))
    only = [member for member in toy(20) if member.label == toy(20)[0].label]
    assert torch.equal(train(tiny, named, key="key", members=only, start=values).values, values)
    for wrong, start in ((spec, values), (named, None), (named, values + 1)):
        with pytest.raises(ValueError, match="to start from the values"):
            train(tiny, wrong, key="key", members=only, start=start)


def test_the_same_members_give_the_same_bits(tiny, spec, toy, trained, bits):
    assert bits(train(tiny, spec, key="key", members=toy(20))) == bits(trained)


def test_global_random_state_is_neither_used_nor_touched(tiny, spec, toy, trained, bits):
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state()
    assert bits(train(tiny, spec, key="key", members=toy(20))) == bits(trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_process_gives_the_same_bits(trained, bits):
    script = """
import hashlib, sys
from models import determinism
from models.backbone import load_backbone
from models.training import train
import tests.unit.conftest as unit
determinism.configure(threads=int(sys.argv[1]), device="cpu")
members = unit.toy_members(20)
prompt = train(load_backbone("tiny"), unit.SPEC, key="key", members=members)
print(hashlib.sha256(unit.bits_of(prompt)).hexdigest())
"""
    command = [sys.executable, "-c", script, str(torch.get_num_threads())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == hashlib.sha256(bits(trained)).hexdigest()


def test_key_and_order_of_members_matter(tiny, spec, toy, trained, bits):
    assert bits(train(tiny, spec, key="another", members=toy(20))) != bits(trained)
    assert bits(train(tiny, spec, key="key", members=toy(20)[::-1])) != bits(trained)


def test_one_member_less_is_another_prompt(tiny, spec, toy, trained, bits):
    assert bits(train(tiny, spec, key="key", members=toy(20)[:-1])) != bits(trained)


# ------------------------------------------------------------------------------------------------- what may change


def test_only_prompt_and_head_change(tiny, spec, toy):
    before = tiny.weights_digest()
    prompt = train(tiny, spec, key="key", members=toy(12))
    assert tiny.weights_digest() == before
    assert all(parameter.grad is None for parameter in tiny._network.parameters())
    for tensor in (prompt.values, prompt.weight, prompt.bias):
        assert tensor.abs().max() > 0
        assert not tensor.requires_grad


@pytest.mark.real
def test_the_real_backbone_keeps_its_weights_and_batchnorm_statistics(real, images):
    members = [TrainingExample(pixels, label) for pixels, label in zip(images.pixels[:6], images.labels, strict=False)]
    spec = TrainingSpec(epochs=1, batch_size=4)
    before = real.weights_digest()
    prompt = train(real, spec, key="key", members=members)
    assert real.weights_digest() == before == real.weights_digest()
    assert prompt.values.abs().max() > 0
    assert prompt.weight.shape == (len(set(images.labels[:6])), 1280)


def test_the_prompt_stays_within_its_frame(tiny, spec, trained):
    frame = expand(trained.values, covered_pixels(spec.prompt, 16), 16)
    assert (frame[:, 3:-3, 3:-3] == 0).all()
    assert trained.values.shape == (3, 16 * 16 - 10 * 10)


def test_without_a_prompt_the_head_learns_alone(tiny, spec, toy):
    bare = dataclasses.replace(spec, prompt=PromptSpec(kind="none"))
    prompt = train(tiny, bare, key="key", members=toy(40))
    assert prompt.values.shape == (3, 0)
    assert accuracy(tiny, bare, prompt, toy(100, seed=1)) > 0.9


# ------------------------------------------------------------------------------------------------------- learning


def test_it_learns_to_tell_classes_apart(tiny, spec, toy):
    prompt = train(tiny, spec, key="key", members=toy(40))
    assert prompt.labels == ("green", "red")
    assert accuracy(tiny, spec, prompt, toy(100, seed=1)) > 0.9


def test_more_epochs_have_a_lower_loss(tiny, spec, toy):
    losses = []
    for epochs in (1, 4, 16):
        longer = dataclasses.replace(spec, epochs=epochs)
        losses.append(cross_entropy(tiny, longer, train(tiny, longer, key="key", members=toy(20)), toy(20)))
    assert np.log(2) > losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("kind", ["padding", "none"])
def test_a_single_label_needs_no_training(tiny, spec, toy, kind):
    steps = []
    members = toy(10)[::2]
    alone = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, kind=kind))
    prompt = train(tiny, alone, key="key", members=members, progress=lambda *step: steps.append(step))
    assert prompt.labels == ("red",)
    assert (prompt.members, prompt.sample_epochs, steps) == (5, 0, [])
    assert accuracy(tiny, alone, prompt, members) == 1.0


def test_a_cluster_without_members_has_no_prompt(tiny, spec):
    with pytest.raises(ValueError, match="without members"):
        train(tiny, spec, key="key", members=[])


def test_the_cost_is_counted_in_sample_epochs(trained):
    assert (trained.members, trained.sample_epochs) == (20, 60)


# ------------------------------------------------------------------------------------------------------ each batch


def test_the_padding_of_the_last_batch_has_no_influence(tiny, spec, toy):
    """Five members in a batch of 8 learn what they learn in a batch of 5, but for rounding."""
    exact, padded = (
        train(tiny, dataclasses.replace(spec, batch_size=size), key="key", members=toy(5)) for size in (5, 8)
    )
    for name in ("values", "weight", "bias"):
        torch.testing.assert_close(getattr(padded, name), getattr(exact, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [2, 7, 8, 9, 17])
def test_every_batch_has_the_same_shape_and_every_member_counts_once(tiny, spec, toy, count, monkeypatch):
    shapes = []
    features = tiny.features_folded
    monkeypatch.setattr(tiny, "features_folded", lambda batch: shapes.append(tuple(batch.shape)) or features(batch))
    prompt = train(tiny, spec, key="key", members=toy(count))
    assert set(shapes) == {(8, 3, 16, 16)}
    assert len(shapes) == 3 * -(-count // 8)
    assert prompt.sample_epochs == 3 * count


def test_images_are_mirrored_only_when_asked(tiny, spec, toy, bits):
    mirrored, plain = (
        train(tiny, dataclasses.replace(spec, flip=flip), key="key", members=toy(20)) for flip in (True, False)
    )
    assert bits(mirrored) != bits(plain)


def test_progress_is_told_after_every_batch(tiny, spec, toy):
    steps = []
    train(tiny, spec, key="key", members=toy(20), progress=lambda *step: steps.append(step))
    assert steps == [(done, 9) for done in range(1, 10)]


def test_whatever_progress_raises_ends_the_training(tiny, spec, toy):
    class LeaseLost(Exception):
        pass

    steps = []

    def progress(done, of):
        steps.append(done)
        if done == 4:
            raise LeaseLost

    with pytest.raises(LeaseLost):
        train(tiny, spec, key="key", members=toy(20), progress=progress)
    assert steps == [1, 2, 3, 4]


def test_the_learning_rate_warms_up_then_falls_along_a_cosine(tiny, spec, toy, monkeypatch):
    rates = []

    class Recorded(torch.optim.SGD):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Recorded)
    longer = dataclasses.replace(spec, epochs=10, warmup=0.2)  # of 20 steps: 4
    train(tiny, longer, key="key", members=toy(16))
    prompt, weights = np.array(rates).T
    assert len(prompt) == 20
    np.testing.assert_allclose(prompt[:5] / longer.prompt_lr, [0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(prompt[12] / longer.prompt_lr, 0.5)
    assert (np.diff(prompt[4:]) < 0).all()
    assert 0 < prompt[-1] < 0.02 * longer.prompt_lr
    np.testing.assert_allclose(weights / longer.head_lr, prompt / longer.prompt_lr)

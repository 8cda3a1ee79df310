"""One forward pass answers a batch that mixes clusters as each cluster would alone."""

import dataclasses

import pytest
import torch

from models import head
from models.bank import stack
from models.prompt import covered_pixels, expand
from models.training import train

LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def prompts(tiny, spec, toy):
    """Prompts with one, two, three and five labels."""

    def built(count):
        members = [dataclasses.replace(member, label=LABELS[i % count]) for i, member in enumerate(toy(16))]
        return train(tiny, spec, key=str(count), members=members)

    return {f"key-{count}": built(count) for count in (2, 1, 5, 3)}


@pytest.fixture(scope="module")
def pictures(tiny, images):
    return torch.stack([tiny.preprocessing.resize(pixels) for pixels in images.pixels[:20]])


def alone(backbone, spec, prompt, picture):
    """What one prompt and head say of one image, without a bank."""
    frame = expand(prompt.values, covered_pixels(spec.prompt, backbone.input_size), backbone.input_size)
    with torch.inference_mode():
        features = backbone.features(backbone.preprocessing.normalise(picture[None]) + frame)
        return head.logits(features, prompt.weight, prompt.bias, spec.scale).softmax(dim=1)[0]


def test_a_mixed_batch_is_answered_as_one_by_one(tiny, spec, prompts, pictures):
    bank = stack(tiny, spec, prompts)
    rows = torch.arange(len(pictures)) % len(prompts)
    answers = bank.probabilities(tiny, pictures, rows)
    for answer, picture, row in zip(answers, pictures, rows, strict=True):
        expected = alone(tiny, spec, prompts[bank.keys[row]], picture)
        torch.testing.assert_close(answer[: len(expected)], expected)


def test_labels_that_a_head_does_not_have_are_impossible(tiny, spec, prompts, pictures):
    bank = stack(tiny, spec, prompts)
    for row, labels in enumerate(bank.labels):
        answers = bank.probabilities(tiny, pictures, torch.full((len(pictures),), row))
        assert (answers[:, len(labels) :] == 0).all()
        assert (answers.argmax(1) < len(labels)).all()
        torch.testing.assert_close(answers.sum(1), torch.ones(len(pictures)))


def test_rows_keep_the_order_of_their_keys(tiny, spec, prompts):
    bank = stack(tiny, spec, prompts)
    assert bank.keys == tuple(prompts)
    assert bank.labels == tuple(prompt.labels for prompt in prompts.values())


def test_a_bank_without_one_prompt_answers_the_others_alike(tiny, spec, prompts, pictures):
    fewer = {key: prompt for key, prompt in prompts.items() if key != "key-5"}
    rows = torch.zeros(len(pictures), dtype=torch.int64)
    all_of_them = stack(tiny, spec, prompts).probabilities(tiny, pictures, rows)
    without = stack(tiny, spec, fewer).probabilities(tiny, pictures, rows)
    torch.testing.assert_close(all_of_them[:, :2], without[:, :2])


def test_an_empty_bank_can_be_stacked(tiny, spec):
    bank = stack(tiny, spec, {})
    assert bank.keys == ()
    assert bank.prompts.shape == (0, 3, 16, 16)

"""One forward pass answers a batch that mixes clusters as each cluster would alone."""

import dataclasses

import pytest
import torch

from models import head
from models.bank import PromptBank, stack
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


def row_of_each(bank):
    """An index for each picture, all rows in turn."""
    indices = torch.tensor([row.index for row in bank.rows.values()])
    return indices[torch.arange(20) % len(indices)]


def in_row(bank, index):
    return next(row for row in bank.rows.values() if row.index == index)


def assert_answers_as_alone(bank, tiny, spec, prompts, pictures):
    rows = row_of_each(bank)
    for answer, picture, index in zip(bank.probabilities(tiny, pictures, rows), pictures, rows, strict=True):
        expected = alone(tiny, spec, prompts[in_row(bank, index).key], picture)
        torch.testing.assert_close(answer[: len(expected)], expected)


def test_a_mixed_batch_is_answered_as_one_by_one(tiny, spec, prompts, pictures):
    assert_answers_as_alone(stack(tiny, spec, prompts), tiny, spec, prompts, pictures)


def test_labels_that_a_head_does_not_have_are_impossible(tiny, spec, prompts, pictures):
    bank = stack(tiny, spec, prompts)
    for row in bank.rows.values():
        answers = bank.probabilities(tiny, pictures, torch.full((len(pictures),), row.index))
        assert (answers[:, len(row.labels) :] == 0).all()
        assert (answers.argmax(1) < len(row.labels)).all()
        torch.testing.assert_close(answers.sum(1), torch.ones(len(pictures)))


def test_rows_know_what_they_hold(tiny, spec, prompts):
    rows = stack(tiny, spec, prompts).rows
    assert {key: (row.key, row.labels, row.members) for key, row in rows.items()} == {
        key: (key, prompt.labels, prompt.members) for key, prompt in prompts.items()
    }


def test_a_bank_without_one_prompt_answers_the_others_alike(tiny, spec, prompts, pictures):
    bank = stack(tiny, spec, prompts)
    bank.drop("key-5")
    assert_answers_as_alone(bank, tiny, spec, prompts, pictures)


def test_a_prompt_goes_into_the_row_that_another_has_left_and_nothing_of_that_one_is_kept(
    tiny, spec, prompts, pictures
):
    bank = stack(tiny, spec, prompts)
    left = bank.rows["key-5"]
    bank.drop("key-5")
    assert not bank._stack.prompts[left.index].any()
    assert not bank._stack.weights[left.index].any()
    taken = bank.put("another", prompts["key-2"])
    assert taken.index == left.index
    assert taken is not left
    assert_answers_as_alone(bank, tiny, spec, {**prompts, "another": prompts["key-2"]}, pictures)


def test_room_grows_by_doubling_and_a_thousand_swaps_take_no_more(tiny, spec, prompts):
    bank = PromptBank(tiny, spec)
    rooms = [bank.put(str(i), prompts["key-2"]) and bank.room for i in range(20)]
    assert sorted(set(rooms)) == [4, 8, 16, 32]
    for i in range(1000):
        bank.drop(str(i))
        bank.put(str(i + 20), prompts[f"key-{(1, 2, 3, 5)[i % 4]}"])
    assert bank.room == 32
    assert len(bank.rows) == 20


def test_what_is_dropped_twice_or_was_never_in_harms_nobody(tiny, spec, prompts, pictures):
    bank = stack(tiny, spec, prompts)
    bank.drop("key-3")
    bank.drop("key-3")
    bank.drop("never")
    first, second = bank.put("one", prompts["key-3"]), bank.put("two", prompts["key-3"])
    assert first.index != second.index


def test_a_prompt_put_in_again_is_another_row(tiny, spec, prompts):
    bank = stack(tiny, spec, prompts)
    before = bank.rows["key-2"]
    assert bank.put("key-2", prompts["key-2"]) is bank.rows["key-2"] is not before
    assert len(bank.rows) == len(prompts)


def test_an_empty_bank_has_no_rows(tiny, spec):
    bank = stack(tiny, spec, {})
    assert bank.rows == {}
    assert bank.room == 0

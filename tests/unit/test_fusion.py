"""One answer from two learners: a mean of probabilities, by how much the prompt has seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fusion import fuse, weight

labels = st.sampled_from(["cat", "dog", "emu", "fox", "gnu"])
probabilities = st.dictionaries(labels, st.floats(0.01, 1.0), min_size=1).map(
    lambda raw: {label: value / sum(raw.values()) for label, value in raw.items()}
)


def test_a_prompt_that_has_seen_everybody_has_half_the_say():
    assert weight(100, 100) == 0.5


@pytest.mark.parametrize(("members", "samples"), [(1, 4), (25, 100), (250, 1000)])
def test_the_say_is_a_matter_of_the_share(members, samples):
    assert weight(members, samples) == pytest.approx(0.5 * (0.5 - 0.1) / 0.9)


@pytest.mark.parametrize(("members", "samples"), [(0, 10), (1, 101), (99, 10_000)])
def test_a_prompt_that_has_seen_less_than_a_hundredth_has_no_say(members, samples):
    assert weight(members, samples) == 0.0
    assert weight(samples // 100 + 1, samples) > 0.0


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_say_is_at_most_a_half_of_one_that_has_seen_no_more_than_there_is(members, samples):
    assert 0.0 <= weight(members, samples) <= (0.5 if members <= samples else 1.0)


@given(st.integers(0, 9_999), st.integers(1, 10_000))
def test_whoever_has_seen_more_has_no_less_say(members, samples):
    assert weight(members, samples) <= weight(members + 1, samples)


def test_a_prompt_that_has_seen_more_than_the_closed_form_has_more_of_the_say():
    """As while samples are described anew."""
    assert weight(12, 10) == pytest.approx(12 / 22)
    assert weight(500, 16) > 0.96


def test_without_samples_both_have_the_same_say():
    assert weight(0, 0) == 0.5
    assert weight(5, 0) == 1.0


@given(probabilities, probabilities, st.floats(0.0, 1.0))
def test_what_comes_out_are_probabilities_of_every_label_that_either_knows(prompt, closed_form, share):
    fused = fuse(prompt, closed_form, share=share)
    assert set(fused) == {*prompt, *closed_form}
    assert sum(fused.values()) == pytest.approx(1.0)
    assert all(0.0 <= value <= 1.0 + 1e-12 for value in fused.values())


@given(probabilities, probabilities, st.floats(0.0, 1.0))
def test_a_label_is_between_what_the_two_say_of_it(prompt, closed_form, share):
    for label, value in fuse(prompt, closed_form, share=share).items():
        said = sorted((prompt.get(label, 0.0), closed_form.get(label, 0.0)))
        assert said[0] - 1e-12 <= value <= said[1] + 1e-12


def test_a_label_that_one_does_not_know_has_no_probability_there():
    fused = fuse({"cat": 1.0}, {"cat": 0.25, "dog": 0.75}, share=0.2)
    assert fused == {"cat": pytest.approx(0.4), "dog": pytest.approx(0.6)}


@given(probabilities, probabilities)
def test_the_whole_say_silences_the_other(prompt, closed_form):
    alone = {label: value for label, value in fuse(prompt, closed_form, share=1.0).items() if value}
    assert alone == prompt
    alone = {label: value for label, value in fuse(prompt, closed_form, share=0.0).items() if value}
    assert alone == closed_form


@given(probabilities, probabilities, st.floats(0.0, 1.0), st.randoms(use_true_random=False))
def test_the_order_of_labels_changes_no_bit(prompt, closed_form, share, random):
    shuffled = dict(random.sample(list(prompt.items()), len(prompt)))
    fused = fuse(prompt, closed_form, share=share)
    assert list(fuse(shuffled, closed_form, share=share).items()) == list(fused.items())
    assert list(fused) == sorted(fused)


def test_two_that_agree_are_repeated():
    same = {"cat": 0.125, "dog": 0.875}
    assert fuse(same, same, share=0.3) == pytest.approx(same)

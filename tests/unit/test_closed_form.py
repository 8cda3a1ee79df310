"""The closed-form head: a function of the multiset of survivors, to the bit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from models import closed_form
from models.closed_form import SCALE, Accumulators, TooManySamples, accumulate, quantise, solve, summarise

DIM = 24
LABELS = ["cat", "dog", "emu", "fox"]


def vectors(count, seed=0, dim=DIM):
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def labels(count, seed=0):
    return np.random.default_rng(seed).choice(LABELS, count).tolist()


def everything(count, seed=0):
    return accumulate(DIM, [(vectors(count, seed), labels(count, seed))])


@given(st.integers(1, 60), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_and_chunks_change_no_bit(count, seed, random):
    rows, names = vectors(count, seed), labels(count, seed)
    order = random.sample(range(count), count)
    cuts = sorted({0, count, *(random.randrange(count + 1) for _ in range(3))})
    chunks = [order[lo:hi] for lo, hi in pairwise(cuts)]
    state = accumulate(DIM, [(rows[chunk], [names[i] for i in chunk]) for chunk in chunks])
    assert state.digest() == everything(count, seed).digest()


@given(st.integers(2, 60), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_a_sample_that_was_removed_was_never_there(count, seed, random):
    rows, names = vectors(count, seed), labels(count, seed)
    gone = random.sample(range(count), random.randrange(1, count))
    left = [i for i in range(count) if i not in gone]
    state = everything(count, seed)
    for index in gone:
        state.remove(rows[index : index + 1], [names[index]])
    expected = accumulate(DIM, [(rows[left], [names[i] for i in left])])
    assert state.digest() == expected.digest()
    assert np.array_equal(state.gram, expected.gram)
    assert state.counts == expected.counts
    if left:
        assert np.array_equal(solve(state, ridge=1.0).weight, solve(expected, ridge=1.0).weight)


def test_threads_change_no_bit_of_the_sums():
    rows, names = vectors(3000, dim=320), labels(3000)
    digests = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            digests.add(accumulate(320, [(rows, names)]).digest())
    assert len(digests) == 1


@pytest.mark.parametrize("count", [1, 2, closed_form.FEW, closed_form.FEW + 1, 700])
def test_sums_are_changed_where_they_lie_block_by_block(count, monkeypatch):
    monkeypatch.setattr(closed_form, "BLOCK", 7)
    rows = vectors(count, 6)
    names = labels(count, 6)
    state = everything(30)
    before, gram = state.digest(), state.gram
    state.add(rows, names)
    stored = quantise(rows)
    assert np.array_equal(state.gram, everything(30).gram + stored.T @ stored)
    state.remove(rows, names)
    assert np.shares_memory(state.gram, gram)
    assert state.digest() == before


def test_the_digest_does_not_depend_on_the_blocks_that_it_is_read_in(monkeypatch):
    expected = everything(50).digest()
    monkeypatch.setattr(closed_form, "BLOCK", 5)
    assert everything(50).digest() == expected


def test_after_a_thousand_removals_in_a_row_it_is_as_if_they_had_never_come():
    rows, names = vectors(1200, 8), labels(1200, 8)
    state = accumulate(DIM, [(rows, names)])
    for index in range(1000):
        state.remove(rows[index : index + 1], [names[index]])
    expected = accumulate(DIM, [(rows[1000:], names[1000:])])
    assert state.digest() == expected.digest()
    assert np.array_equal(solve(state, ridge=0.1).weight, solve(expected, ridge=0.1).weight)
    entries = np.arange(5, 20)
    assert np.array_equal(summarise(state, entries).weight, summarise(expected, entries).weight)


def test_merging_is_adding():
    one, two = everything(20, 1), everything(30, 2)
    one.merge(two)
    both = accumulate(DIM, [(vectors(20, 1), labels(20, 1)), (vectors(30, 2), labels(30, 2))])
    assert one.digest() == both.digest()
    assert one.samples == 50


def test_labels_come_with_their_first_sample_and_go_with_their_last():
    state = Accumulators(DIM)
    state.add(vectors(3), ["cat", "dog", "cat"])
    assert solve(state, ridge=1.0).labels == ("cat", "dog")
    state.remove(vectors(3)[1:2], ["dog"])
    assert solve(state, ridge=1.0).labels == ("cat",)
    state.remove(vectors(3)[[0, 2]], ["cat", "cat"])
    assert (state.counts, state.sums, state.samples) == ({}, {}, 0)
    assert not state.gram.any()
    assert state.digest() == Accumulators(DIM).digest()


def test_the_same_rows_under_other_labels_have_another_digest():
    states = [accumulate(DIM, [(vectors(2), names)]) for names in (["cat", "dog"], ["dog", "cat"], ["cat", "cat"])]
    assert len({state.digest() for state in states}) == 3


def test_it_is_ridge_regression_on_labels_scaled_by_how_rare_they_are():
    rows, names = vectors(400, 3), labels(400, 3)
    head = solve(accumulate(DIM, [(rows, names)]), ridge=0.7)
    stored = quantise(rows) / SCALE
    scale = [np.sqrt(400 / (len(LABELS) * names.count(label))) for label in LABELS]
    targets = np.array([[name == label for label in LABELS] for name in names]) * scale
    expected = Ridge(alpha=0.7, fit_intercept=False, solver="cholesky").fit(stored, targets).coef_.T
    assert head.labels == tuple(LABELS)
    assert np.allclose(head.weight, expected, atol=1e-10)


def test_labels_of_as_many_samples_are_not_scaled():
    rows, names = vectors(3 * len(LABELS)), LABELS * 3
    expected = Ridge(alpha=0.7, fit_intercept=False, solver="cholesky")
    expected.fit(quantise(rows) / SCALE, np.array([[name == label for label in LABELS] for name in names], dtype=float))
    assert np.allclose(solve(accumulate(DIM, [(rows, names)]), ridge=0.7).weight, expected.coef_.T, atol=1e-10)


def test_a_label_of_few_samples_is_still_answered():
    centre = np.eye(DIM, dtype=np.float32)[:2]
    rows = 0.6 * centre.repeat([190, 10], axis=0) + 0.8 * vectors(200)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    head = solve(accumulate(DIM, [(rows, ["many"] * 190 + ["few"] * 10)]), ridge=0.3)
    plain = head.weight / np.sqrt([200 / (2 * 10), 200 / (2 * 190)])
    assert (head.scores(rows[190:], 0.1)[:, 0] > 0.5).sum() > ((rows[190:] @ plain).argmax(axis=1) == 0).sum()


def test_it_may_be_solved_where_the_sums_lie():
    state = everything(50)
    weight = solve(state, ridge=0.7).weight
    assert state.digest() == everything(50).digest()
    assert np.array_equal(solve(state, ridge=0.7, overwrite=True).weight, weight)


# ------------------------------------------------------------------------------------------------- odd sets of samples


def test_one_label_is_certain():
    head = solve(accumulate(DIM, [(vectors(5), ["cat"] * 5)]), ridge=0.1)
    assert (head.scores(vectors(3, 1), 0.1) == 1.0).all()


def test_two_samples_are_told_apart():
    head = solve(accumulate(DIM, [(vectors(2), ["cat", "dog"])]), ridge=0.1)
    assert head.scores(vectors(2), 0.1).argmax(axis=1).tolist() == [0, 1]


def test_each_of_a_thousand_labels_of_one_sample_is_recognised():
    rows, names = vectors(1000, dim=320), [f"label {i:03}" for i in range(1000)]
    head = solve(accumulate(320, [(rows, names)]), ridge=0.1)
    scores = head.scores(rows, 0.1)
    assert head.labels == tuple(names)
    assert (scores.argmax(axis=1) == np.arange(1000)).mean() > 0.9
    assert np.allclose(scores.sum(axis=1), 1)


def test_a_picture_under_two_labels_is_as_much_the_one_as_the_other():
    rows = vectors(1).repeat(2, axis=0)
    head = solve(accumulate(DIM, [(rows, ["cat", "dog"])]), ridge=0.1)
    assert head.scores(rows, 0.1) == pytest.approx(0.5)


def test_rows_without_variance_are_answered_with_sense():
    """All samples are one picture: no entry varies, and the sums have rank one."""
    rows = vectors(1).repeat(100, axis=0)
    state = accumulate(DIM, [(rows, ["cat"] * 90 + ["dog"] * 10)])
    for head in (solve(state, ridge=0.1), summarise(state, np.arange(6))):
        scores = head.scores(rows[:1], 0.1)
        assert np.isfinite(scores).all()
        assert scores.argmax() == 0


def test_scores_are_probabilities_and_the_temperature_sharpens_them():
    head = solve(everything(200, 4), ridge=1.0)
    soft, sharp = (head.scores(vectors(50, 5), temperature) for temperature in (1.0, 0.05))
    assert np.allclose(soft.sum(axis=1), 1)
    assert np.array_equal(soft.argmax(axis=1), sharp.argmax(axis=1))
    assert (sharp.max(axis=1) > soft.max(axis=1)).all()
    assert np.isfinite(head.scores(vectors(5), 1e-6)).all()


def test_more_samples_than_can_be_summed_exactly_are_refused_and_change_nothing(monkeypatch):
    monkeypatch.setattr(closed_form, "MOST_SAMPLES", 10)
    state = everything(8)
    before = state.digest()
    with pytest.raises(TooManySamples):
        state.add(vectors(2), ["cat", "cat"])
    with pytest.raises(TooManySamples):
        state.merge(everything(2))
    assert state.digest() == before
    state.add(vectors(1), ["cat"])


def test_the_bound_keeps_every_sum_below_two_to_the_53():
    largest = float(np.abs(quantise(np.eye(4, dtype=np.float32) * np.float32(1.0009))).max())
    assert largest**2 * closed_form.MOST_SAMPLES < 2**53


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((1, DIM)), "not a unit vector"),
        (np.full((1, DIM), np.nan), "not a unit vector"),
        (2 * vectors(1), "not a unit vector"),
        (vectors(1)[0], "must be"),
    ],
)
def test_what_is_no_embedding_is_refused_and_changes_nothing(rows, words):
    state = everything(5)
    before = state.digest()
    with pytest.raises(ValueError, match=words):
        state.add(rows, ["cat"])
    assert state.digest() == before


def test_what_is_not_in_cannot_be_removed():
    state = accumulate(DIM, [(vectors(2), ["cat", "dog"])])
    before = state.digest()
    for names in (["emu"], ["cat", "cat"]):
        with pytest.raises(ValueError, match="not so many samples"):
            state.remove(vectors(len(names)), names)
    with pytest.raises(ValueError, match="1 descriptors of"):
        state.add(vectors(2), ["cat"])
    assert state.digest() == before


def test_nothing_and_no_regularisation_cannot_be_solved():
    with pytest.raises(ValueError, match="no label"):
        solve(Accumulators(DIM), ridge=1.0)
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            solve(everything(3), ridge=ridge)

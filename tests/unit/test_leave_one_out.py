"""Leave-one-out predictions of the closed form, against heads that are solved without each sample."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.closed_form import SCALE, Accumulators, Sums, accumulate, quantise, solve
from models.embedding import Descriptor
from models.leave_one_out import LeaveOneOut

RIDGE, TEMPERATURE = 0.3, 0.1


def units(count: int, dim: int = 12, seed: int = 0) -> Descriptor:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(count: int, labels: Sequence[str], seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [chance.choice(labels) for _ in range(count)]


def sums(rows: Descriptor, labels: Sequence[str]) -> Accumulators:
    return accumulate(rows.shape[1], [(rows, labels)])


def predicted(rows: Descriptor, labels: Sequence[str], ridge: float = RIDGE) -> tuple[tuple[str, ...], Sums]:
    known = LeaveOneOut(sums(rows, labels), ridge=ridge, temperature=TEMPERATURE)
    return known.labels, known.scores(rows, labels)


def by_refitting(rows: Descriptor, labels: Sequence[str], ridge: float = RIDGE) -> Sums:
    """A head without each sample, asked for it; 0 for a label that nothing is left of."""
    names = sorted(set(labels))
    found = np.zeros((len(rows), len(names)))
    for left_out in range(len(rows)):
        others = [i for i in range(len(rows)) if i != left_out]
        head = solve(sums(rows[others], [labels[i] for i in others]), ridge=ridge)
        asked = (quantise(rows[[left_out]]) / SCALE).astype(np.float64)
        columns = [names.index(label) for label in head.labels]
        found[left_out, columns] = head.scores(asked, TEMPERATURE)[0]  # type: ignore[arg-type]
    return found


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 24),
    kinds=st.integers(1, 6),
    ridge=st.sampled_from([1e-3, 0.1, 0.3, 10.0]),
    seed=st.integers(0, 1000),
)
def test_it_is_what_the_head_of_all_others_says(count: int, kinds: int, ridge: float, seed: int) -> None:
    rows, labels = units(count, seed=seed), drawn(count, "abcdef"[:kinds], seed)
    names, found = predicted(rows, labels, ridge)
    assert list(names) == sorted(set(labels))
    np.testing.assert_allclose(found, by_refitting(rows, labels, ridge), atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_more_samples_than_numbers_in_a_descriptor() -> None:
    rows, labels = units(60, dim=5), drawn(60, "abc")
    np.testing.assert_allclose(predicted(rows, labels)[1], by_refitting(rows, labels), atol=1e-9)


def test_the_only_label_is_always_right() -> None:
    assert predicted(units(5), ["cat"] * 5)[1].tolist() == [[1.0]] * 5


def test_of_two_samples_each_is_predicted_from_the_other() -> None:
    assert predicted(units(2), ["cat", "cat"])[1].tolist() == [[1.0], [1.0]]
    assert predicted(units(2), ["cat", "dog"])[1].tolist() == [[0.0, 1.0], [1.0, 0.0]]  # nothing else is known


def test_a_label_with_one_sample_does_not_exist_without_it() -> None:
    labels = [*drawn(9, "ab"), "only"]
    names, found = predicted(units(10), labels)
    assert found[9, names.index("only")] == 0.0
    assert found[:9, names.index("only")].min() > 0.0
    np.testing.assert_allclose(found, by_refitting(units(10), labels), atol=1e-9)


def test_the_same_picture_with_two_labels_is_taken_for_the_other_one() -> None:
    rows = np.repeat(units(4), 2, axis=0)
    labels = ["cat", "dog"] * 4
    names, found = predicted(rows, labels)
    np.testing.assert_allclose(found, by_refitting(rows, labels), atol=1e-9)
    assert [names[column] for column in found.argmax(axis=1)] == ["dog", "cat"] * 4


def test_a_thousand_labels() -> None:
    rows = units(2_500, dim=32)
    labels = [f"label {i % 1000:03}" for i in range(2_500)]
    names, found = predicted(rows, labels)
    assert len(names) == 1000
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    (index,) = (i for i, label in enumerate(labels) if label == "label 700" and i > 1000)
    others = [i for i in range(len(rows)) if i != index]
    head = solve(sums(rows[others], [labels[i] for i in others]), ridge=RIDGE)
    alone = head.scores(quantise(rows[[index]]) / SCALE, TEMPERATURE)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[[index]], alone, atol=1e-9)


def test_every_sample_with_a_label_of_its_own() -> None:
    labels = [str(i) for i in range(10)]
    _, found = predicted(units(10), labels)
    assert found.diagonal().tolist() == [0.0] * 10
    np.testing.assert_allclose(found, by_refitting(units(10), labels), atol=1e-9)


def test_a_tiny_lambda_makes_no_infinite_number() -> None:
    """Each sample is the only one in its direction: 1 - h is lambda / (1 + lambda), less than its rounding."""
    rows = np.eye(6, dtype=np.float32)
    _, found = predicted(rows, ["a", "b"] * 3, ridge=1e-17)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, 0.5)


def test_it_can_be_asked_in_any_portions() -> None:
    rows, labels = units(30), drawn(30, "abc")
    known = LeaveOneOut(sums(rows, labels), ridge=RIDGE, temperature=TEMPERATURE)
    whole = known.scores(rows, labels)
    parts = [known.scores(rows[i : i + 7], labels[i : i + 7]) for i in range(0, 30, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_samples_are_refused_in_words(count: int) -> None:
    with pytest.raises(ValueError, match="nothing left to predict one from"):
        LeaveOneOut(sums(units(count), ["cat"] * count), ridge=RIDGE, temperature=TEMPERATURE)


def test_a_lambda_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        LeaveOneOut(sums(units(3), ["cat"] * 3), ridge=0.0, temperature=TEMPERATURE)


def test_a_label_that_nothing_has_is_refused() -> None:
    known = LeaveOneOut(sums(units(3), ["cat"] * 3), ridge=RIDGE, temperature=TEMPERATURE)
    with pytest.raises(KeyError):
        known.scores(units(1), ["dog"])


def test_the_sums_are_factored_where_they_lie() -> None:
    """At 5,536 numbers a copy would be 245 MB."""
    state = sums(units(20), drawn(20, "ab"))
    known = LeaveOneOut(state, ridge=RIDGE, temperature=TEMPERATURE)
    assert np.shares_memory(known._factor._factor.numpy(), state.gram)

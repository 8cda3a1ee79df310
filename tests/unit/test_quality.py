"""Accuracy, recall, confusion and calibration, from counted predictions."""

import random

import numpy as np
import pytest

from models.closed_form import Sums
from models.quality import BINS, MOST_PAIRS, Bin, Confusion, LabelQuality, QualityReport, Tally


def surely(*columns: int, of: int, confidence: float = 1.0) -> Sums:
    """Probabilities that choose these columns."""
    rows = np.full((len(columns), of), (1 - confidence) / max(of - 1, 1))
    rows[np.arange(len(columns)), columns] = confidence
    return rows


def report(labels: str, right: str, predicted: str, confidence: float = 1.0) -> QualityReport:
    tally = Tally(labels)
    tally.add(right, surely(*map(labels.index, predicted), of=len(labels), confidence=confidence))
    return tally.report()


def test_counts_by_label_and_pair() -> None:
    found = report("abc", right="aaaabbbbcc", predicted="aaabbbacba")
    assert (found.samples, found.accuracy) == (10, 0.5)
    assert found.labels == (
        LabelQuality("a", 4, 0.75, 3 / 5),
        LabelQuality("b", 4, 0.5, 2 / 4),
        LabelQuality("c", 2, 0.0, 0.0),
    )
    assert found.confusion == (
        Confusion("a", "b", 1), Confusion("b", "a", 1), Confusion("b", "c", 1), Confusion("c", "a", 1),
        Confusion("c", "b", 1),
    )  # fmt: skip


def test_a_label_that_is_never_answered_has_no_precision() -> None:
    assert report("ab", right="ab", predicted="aa").labels[1] == LabelQuality("b", 1, 0.0, None)


def test_the_most_frequent_confusions_come_first_and_are_bounded() -> None:
    names = "".join(chr(0x4E00 + i) for i in range(MOST_PAIRS + 20))
    right = names[1:] + names[5] * 2
    found = report(names, right=right, predicted=names[0] * len(right))
    assert len(found.confusion) == MOST_PAIRS
    assert found.confusion[0] == Confusion(names[5], names[0], 3)
    assert [pair.label for pair in found.confusion[1:4]] == list(names[1:4])


def test_calibration_is_the_gap_between_confidence_and_accuracy() -> None:
    tally = Tally("ab")
    tally.add("aaaa", surely(0, 0, 0, 1, of=2, confidence=0.95))  # three of four right
    tally.add("aabb", surely(1, 1, 1, 1, of=2, confidence=0.55))  # two of four right
    found = tally.report()
    low, high = found.reliability
    assert (low.accuracy, low.samples, high.accuracy, high.samples) == (0.5, 4, 0.75, 4)
    assert (low.confidence, high.confidence) == pytest.approx((0.55, 0.95))
    assert found.calibration_error == pytest.approx((0.05 + 0.2) / 2)


def test_a_bin_for_every_confidence() -> None:
    tally = Tally("ab")
    for confidence in (0.5, 0.999999, 1.0):
        tally.add("a", surely(0, of=2, confidence=confidence))
    found = tally.report()
    assert [part.samples for part in found.reliability] == [1, 2]
    assert sum(part.samples for part in found.reliability) == found.samples
    assert report("a", right="aa", predicted="aa").reliability == (Bin(1.0, 1.0, 2),)
    assert len(found.reliability) <= BINS


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_portions_give_the_same_report(seed: int) -> None:
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    probabilities = numbers.dirichlet(np.ones(5), 200)
    labels = [chance.choice("abcde") for _ in range(200)]
    reports = []
    for _ in range(2):
        order = chance.sample(range(200), 200)
        tally = Tally("abcde")
        while order:
            part, order = order[: (size := chance.randint(1, 30))], order[size:]
            tally.add([labels[i] for i in part], probabilities[part])
        reports.append(tally.report())
    assert reports[0] == reports[1]


def test_of_equal_probabilities_the_first_label_is_predicted() -> None:
    tally = Tally("ab")
    tally.add("ab", np.full((2, 2), 0.5))
    assert [label.recall for label in tally.report().labels] == [1.0, 0.0]


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="No prediction"):
        Tally("ab").report()

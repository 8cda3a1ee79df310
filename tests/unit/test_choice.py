"""Lambda and temperature chosen by leave-one-out likelihood, against heads that are solved without each sample."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from models import choice as choice_module
from models.choice import (
    FEWEST,
    RIDGES,
    TEMPERATURES,
    Choice,
    choose,
    constants,
    digest_of,
    is_choosable,
    select,
)
from models.closed_form import SCALE, Accumulators, accumulate, quantise, solve
from models.descriptor import Descriptor
from models.spec import ClosedFormSpec
from tests.unit.test_leave_one_out import sums, units

pytestmark = pytest.mark.usefixtures("deterministic")

SPEC = ClosedFormSpec(chooses_ridge=True, chooses_temperature=True)


@dataclass(frozen=True)
class Shown:
    """A sample: its digest, label and descriptor."""

    digest: str
    label: str
    row: Descriptor


def shown(labels: Sequence[str], *, dim: int = 8, noise: float = 1.0, seed: int = 0) -> list[Shown]:
    """Samples around a direction of their label."""
    chance = np.random.default_rng(seed)
    centres = {label: chance.standard_normal(dim) for label in sorted(set(labels))}
    rows = np.stack([centres[label] + noise * chance.standard_normal(dim) for label in labels])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
    return [Shown(*one) for one in zip(digests, labels, rows, strict=True)]


def summed(samples: Sequence[Shown]) -> Accumulators:
    return sums(np.stack([one.row for one in samples]), [one.label for one in samples])


def chosen(samples: Sequence[Shown], spec: ClosedFormSpec = SPEC) -> Choice:
    state = summed(samples)
    asked = select(samples, state.counts)
    return choose(state, np.stack([one.row for one in asked]), [one.label for one in asked], spec=spec)


def likelihood(samples: Sequence[Shown], ridge: float, temperature: float) -> float:
    """Mean over the samples that are not the only one of their label, each asked of a head without it."""
    counts, logs = Counter(one.label for one in samples), []
    for place, left_out in enumerate(samples):
        if counts[left_out.label] == 1:
            continue
        head = solve(summed([*samples[:place], *samples[place + 1 :]]), ridge=ridge)
        row = quantise(left_out.row[None]) / SCALE
        scores = head.scores(row, temperature)[0]  # type: ignore[arg-type]
        logs.append(float(np.log(scores[head.labels.index(left_out.label)])))
    return round(float(np.mean(logs)), 4)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples few enough to solve a head without each."""
    monkeypatch.setattr(choice_module, "FEWEST", 10)


@pytest.mark.parametrize(("noise", "seed"), [(0.3, 0), (1.0, 1), (3.0, 2)])
@pytest.mark.usefixtures("few")
def test_lambda_is_the_likeliest_at_the_constant_temperature_then_the_temperature_at_it(
    noise: float, seed: int
) -> None:
    samples = shown([*"aabbccddab" * 3, "only"], noise=noise, seed=seed)
    ridge = max((0.1, 0.01, 0.03, 0.3, 1.0), key=lambda ridge: likelihood(samples, ridge, 0.1))
    temperature = max((0.1, *TEMPERATURES), key=lambda temperature: likelihood(samples, ridge, temperature))
    assert chosen(samples) == Choice(ridge, temperature, 30)


@pytest.mark.usefixtures("few")
def test_there_is_something_to_choose() -> None:
    """Else the other tests show little."""
    labels = [*"aabbccddab" * 3]
    found = [chosen(shown(labels, noise=noise, seed=seed)) for noise in (0.1, 1.0, 3.0) for seed in range(3)]
    assert len({one.ridge for one in found}) > 2
    assert len({one.temperature for one in found}) > 2


@pytest.mark.usefixtures("few")
def test_it_depends_on_no_order_and_leaves_the_sums_as_they_are() -> None:
    samples = shown([*"aabbc" * 8], noise=1.0)
    state, before = summed(samples), summed(samples).digest()
    asked = select(random.Random(3).sample(samples, len(samples)), state.counts)
    rows, labels = np.stack([one.row for one in asked]), [one.label for one in asked]
    assert choose(state, rows, labels, spec=SPEC) == chosen(samples)
    assert state.digest() == before


@pytest.mark.usefixtures("few")
def test_of_equals_the_constants_win(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = shown([*"aabbc" * 8], noise=3.0)
    assert chosen(samples) != Choice(0.1, 0.1, 40)
    monkeypatch.setattr(choice_module, "STEP", 1e9)  # no difference counts
    for ridge in (*RIDGES, 0.17):
        spec = ClosedFormSpec(ridge, 0.14, chooses_ridge=True, chooses_temperature=True)
        assert chosen(samples, spec) == Choice(ridge, 0.14, 40)


@pytest.mark.usefixtures("few")
def test_what_the_operator_has_set_stays() -> None:
    samples = shown([*"aabbc" * 8], noise=3.0)
    ridge = ClosedFormSpec(0.02, chooses_temperature=True)
    assert chosen(samples, ridge).ridge == 0.02
    temperature = ClosedFormSpec(temperature=0.02, chooses_ridge=True)
    assert chosen(samples, temperature).temperature == 0.02
    assert chosen(samples, ClosedFormSpec(0.02, 0.02)) == Choice(0.02, 0.02)


def test_constants_hold_below_two_hundred_samples() -> None:
    samples = shown([*"ab" * 100, "only"], noise=3.0)
    assert FEWEST == 200
    assert chosen(samples).samples == 200
    assert chosen(samples[2:]) == Choice(0.1, 0.1)
    assert chosen(samples[1:]) == Choice(0.1, 0.1)  # the sample that nothing is known of without it counts for nothing


@pytest.mark.parametrize("labels", [["a"] * 300, [str(i) for i in range(300)], ["a", "b"], ["a"], []])
def test_constants_hold_where_no_likelihood_is_defined(labels: list[str]) -> None:
    counts = Counter(labels)
    assert not is_choosable(counts, SPEC)
    assert choose(accumulate(4, []), np.zeros((0, 4), np.float32), [], spec=SPEC) == constants(SPEC)


def test_one_label_and_one_sample_of_another_are_no_reason_to_fail() -> None:
    found = chosen(shown([*"a" * 250, "b"]))
    assert found.ridge in RIDGES
    assert found.temperature in TEMPERATURES


def test_a_thousand_labels_identical_samples_and_contradictions_give_a_choice() -> None:
    cases = [
        shown([f"label {i % 1000:03}" for i in range(2_100)], dim=16),
        [Shown("0", "ab"[i % 2], units(1)[0]) for i in range(220)],
        [Shown(str(i), "ab"[i % 2], units(110)[i // 2]) for i in range(220)],
    ]
    with np.errstate(all="raise", under="ignore"):
        found = [chosen(samples) for samples in cases]
    assert all(one.ridge in RIDGES and one.temperature in TEMPERATURES and one.samples > 200 for one in found)


def test_where_the_sums_cannot_be_factored_the_constants_hold() -> None:
    spec = ClosedFormSpec(1e-300, chooses_temperature=True)
    assert chosen(shown([*"ab" * 110], dim=300), spec) == constants(spec)


def test_at_most_so_many_are_compared_the_first_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "MOST", 120)
    samples = shown([*"abc" * 100], noise=2.0)
    state = summed(samples)
    asked = select(samples, state.counts)
    assert [one.digest for one in asked] == sorted(one.digest for one in samples)[:120]
    assert chosen(samples).samples == 120


def test_a_digest_names_sums_lambda_temperature_and_how_they_were_chosen() -> None:
    found = {
        digest_of(of, Choice(ridge, temperature, samples))
        for of in ("a" * 64, "b" * 64)
        for ridge in (0.1, 0.3)
        for temperature in (0.1, 0.3)
        for samples in (0, 300)
    }
    assert len(found) == 16


@pytest.mark.usefixtures("few")
def test_what_interrupts_it_is_heard_after_each_portion_and_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "PORTION", 10)
    samples = shown([*"aabbc" * 8])
    asked = select(samples, summed(samples).counts)
    rows, labels, times = np.stack([one.row for one in asked]), [one.label for one in asked], []
    choose(summed(samples), rows, labels, spec=SPEC, pause=lambda: times.append(1))
    assert len(times) == len(RIDGES) * (1 + 4)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        choose(summed(samples), rows, labels, spec=SPEC, pause=stop)

"""Lambda and temperature of the closed form, chosen by leave-one-out likelihood of the survivors, from a public grid.

Lambda first, at the constant temperature; then the temperature, at that lambda: chosen together they overfit. What is
compared is the mean log-likelihood of each sample's own label (`models.leave_one_out`), rounded to `STEP`; of equals
the first of the grid wins, and the constant is the first. So the choice is a pure function of the sums and of some
descriptors that are in them: of at most `MOST` samples, the first by digest, whichever order they came in. Constants
hold where a likelihood is not defined: below `FEWEST` samples that are not the only one of their label, and where all
samples have one label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from models.closed_form import Accumulators, Rows
from models.leave_one_out import LeaveOneOut
from models.spec import ClosedFormSpec, canonical_json, sha256

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)
FEWEST = 200  # samples whose label another sample has as well; with fewer the constants hold
MOST = 2_048  # samples whose likelihood is compared
STEP = 1e-4  # nats of mean log-likelihood that count as a difference
PORTION = 64  # samples between two calls of `pause`; last bits depend on it


class Labelled(Protocol):
    """A sample: the digest of its pixels, and its label."""

    @property
    def digest(self) -> str: ...
    @property
    def label(self) -> str: ...


Sample = TypeVar("Sample", bound=Labelled)


@dataclass(frozen=True)
class Choice:
    """Lambda and temperature in force.

    samples  how many samples' likelihood chose them; 0: they are constants, or fixed by the operator.
    """

    ridge: float
    temperature: float
    samples: int = 0


def constants(spec: ClosedFormSpec) -> Choice:
    """What holds where nothing is chosen."""
    return Choice(spec.ridge, spec.temperature)


def is_choosable(counts: Mapping[str, int], spec: ClosedFormSpec) -> bool:
    """Whether there is anything to choose from: by these numbers of samples of each label."""
    comparable = sum(count for count in counts.values() if count > 1)
    return (spec.chooses_ridge or spec.chooses_temperature) and len(counts) > 1 and comparable >= FEWEST


def select(samples: Iterable[Sample], counts: Mapping[str, int]) -> list[Sample]:
    """The samples whose likelihood is compared, in the order in which it is: by digest, then label."""
    comparable = [sample for sample in samples if counts[sample.label] > 1]
    return sorted(comparable, key=lambda sample: (sample.digest, sample.label))[:MOST]


def choose(
    state: Accumulators,
    descriptors: Rows,
    labels: Sequence[str],
    *,
    spec: ClosedFormSpec,
    pause: Callable[[], None] = lambda: None,
) -> Choice:
    """The choice that the sums imply; they stay as they are. Raises what `pause` raises, and ValueError.

    descriptors  [n, dim] and labels of those that `select` names, in its order; all of them are in the sums.
    pause        called after each step of some milliseconds, and after the factoring of the sums for each lambda.

    Holds a copy of the sums, one at a time.
    """
    if not is_choosable(state.counts, spec):
        return constants(spec)
    ridges = _from_constant(spec.ridge, RIDGES) if spec.chooses_ridge else [spec.ridge]
    temperatures = _from_constant(spec.temperature, TEMPERATURES) if spec.chooses_temperature else [spec.temperature]
    likelihoods = {}
    for ridge in ridges:
        try:
            head = LeaveOneOut(state.copy(), ridge=ridge, temperature=spec.temperature)
        except ValueError:  # LinAlgError: an operator's lambda, so small that rounding takes it to zero
            return constants(spec)
        pause()
        likelihoods[ridge] = _likelihoods(head, descriptors, labels, temperatures, pause)
        del head  # before the next copy
    ridge = _best(ridges, {ridge: found[spec.temperature] for ridge, found in likelihoods.items()})
    return Choice(ridge, _best(temperatures, likelihoods[ridge]), len(labels))


def digest_of(sums: str, choice: Choice) -> str:
    """Hex SHA-256 of a closed form: the digest of its sums, and the lambda and temperature that it answers with."""
    settings = [choice.ridge, choice.temperature, choice.samples]
    return sha256(b"oubli/closed-form-in-force/1", sums.encode(), canonical_json(settings))


def _from_constant(constant: float, grid: Sequence[float]) -> list[float]:
    """The grid, the constant before the others."""
    return [constant, *(value for value in grid if value != constant)]


def _best(grid: Sequence[float], likelihoods: Mapping[float, int]) -> float:
    """Where it is greatest: the first of equals."""
    return max(grid, key=lambda value: likelihoods[value])


def _likelihoods(
    head: LeaveOneOut,
    descriptors: Rows,
    labels: Sequence[str],
    temperatures: Sequence[float],
    pause: Callable[[], None],
) -> dict[float, int]:
    """Mean log-likelihood of the samples' own labels at each temperature, in units of STEP."""
    columns = {label: column for column, label in enumerate(head.labels)}
    totals = dict.fromkeys(temperatures, 0.0)
    for start in range(0, len(labels), PORTION):
        chunk = labels[start : start + PORTION]
        own = np.array([columns[label] for label in chunk])
        outputs = head.outputs(descriptors[start : start + PORTION], chunk)  # [n, labels]
        outputs -= outputs[np.arange(len(chunk)), own][:, None]
        for temperature in temperatures:
            logits = outputs / temperature
            most = logits.max(axis=1, keepdims=True)  # not below 0, which its own label has
            logs = most[:, 0] + np.log(np.exp(logits - most).sum(axis=1))
            totals[temperature] -= float(logs.sum())
        pause()
    return {temperature: round(total / len(labels) / STEP) for temperature, total in totals.items()}

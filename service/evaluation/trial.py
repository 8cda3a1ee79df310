"""A trial of forgetting at a small scale: is it exact, and does an attacker recognise the forgotten samples?

A method learns from some samples; then one is forgotten, then half of them. Each time the result is compared, bit by
bit, with what the same method builds from nothing without them. Then the attack of `membership`: the forgotten samples
against samples that no model ever saw, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.backbone import Backbone
from service.evaluation.clustered import Clustered, tree_spec
from service.evaluation.membership import Likelihoods, attack, likelihoods, rmia
from service.evaluation.method import Budget, Method, Setting
from service.evaluation.methods import make_method
from service.evaluation.pool import Pool
from service.evaluation.workshop import Spent, Work, build


@dataclass(frozen=True)
class Scale:
    """The size of a trial.

    members     that are learned from; half of them are forgotten.
    references  models that the attacker trains on as many others, drawn from three times as many.
    """

    members: int = 400
    references: int = 3

    @property
    def samples(self) -> int:
        """Members, as many unseen (half) and others of the population (half), and the references'."""
        return self.members + self.members + 3 * self.members


Make = Callable[[Pool], Method]  # the same method, of other samples


def run(name: str, setting: Setting, scale: Scale, spent: Spent = lambda sample_epochs: None) -> dict[str, Any]:
    """Figures of one method. The setting's pool: `scale.samples` of them; the first are the members."""
    groups = _groups(setting.pool, scale)
    budget = _fitting(setting.budget, setting.backbone, groups["members"], scale.members)

    def make(pool: Pool) -> Method:
        return make_method(name, replace(setting, pool=pool, budget=budget))

    method = make(groups["members"])
    rows = range(scale.members)
    forgotten = list(range(0, scale.members, 2))
    before = build(method, rows, spent=spent)
    exact = {}
    for title, gone in (("one", [scale.members // 3]), ("half", forgotten)):
        left = [row for row in rows if row not in set(gone)]
        work = build(method, left, before=before.built, spent=spent)
        exact[title] = as_never_told(make, groups["members"].take(left), work, spent)
    after = work
    said = _Attacker(make, groups, scale, spent)
    survivors = [row for row in rows if row not in set(forgotten)]
    return {
        "exact": exact,
        "rebuilt": len(after.new),
        "attack_before": asdict(said.attack(method, rows, before, forgotten)),
        "attack_after": asdict(said.attack(method, survivors, after, forgotten)),
    }


def _fitting(budget: Budget, backbone: Backbone, members: Pool, count: int) -> Budget:
    """Clusters and shards as many times smaller as there are fewer samples; what is fitted to the data, fixed."""
    smaller = replace(
        budget,
        cap=max(8, count // 4),
        min=max(4, count // 16),
        anchors=max(8, count // 4),
        shards=4,
        slices=2,
        core=max(1, count // 4),
    )
    tree = Clustered(Setting(backbone, members, smaller), tree_spec(smaller), prompts=False)
    return replace(smaller, clusters=len(tree.parts(range(count))))


def _groups(samples: Pool, scale: Scale) -> dict[str, Pool]:
    members, half = scale.members, scale.members // 2
    ends = {"members": members, "unseen": members + half, "population": 2 * members, "references": scale.samples}
    starts = [0, *list(ends.values())[:-1]]
    return {name: samples.take(range(start, end)) for start, (name, end) in zip(starts, ends.items(), strict=True)}


def as_never_told(make: Make, survivors: Pool, work: Work, spent: Spent = lambda sample_epochs: None) -> bool:
    """Whether the same is built by a method that knows these samples only, from nothing: keys, labels and every bit."""
    fresh = build(make(survivors), range(len(survivors)), spent=spent)
    return {k: v.digest for k, v in work.built.items()} == {k: v.digest for k, v in fresh.built.items()}


class _Attacker:
    """The attacker: has samples, labels and probabilities, and trains references in the same way on other samples."""

    def __init__(self, make: Make, groups: dict[str, Pool], scale: Scale, spent: Spent) -> None:
        self._groups = groups
        self._labels = sorted(set(groups["members"].labels))
        random = np.random.default_rng([20404, scale.members])
        others = groups["references"]
        self._references = []
        for _ in range(scale.references):
            chosen = others.take(random.choice(len(others), scale.members, replace=False).tolist())
            method = make(chosen)
            built = build(method, range(scale.members), spent=spent)
            self._references.append((method, range(scale.members), built, sorted(set(chosen.labels))))

    def attack(self, method: Method, survivors: Sequence[int], work: Work, forgotten: Sequence[int]) -> Any:
        """The forgotten against the unseen."""
        asked = {
            "forgotten": self._groups["members"].take(forgotten),
            "unseen": self._groups["unseen"],
            "population": self._groups["population"],
        }
        target = {name: self._said(method, survivors, work, self._labels, pool) for name, pool in asked.items()}
        references = {
            name: np.stack([self._said(*reference, pool) for reference in self._references])
            for name, pool in asked.items()
        }
        scores = {
            name: rmia(target[name], references[name], target["population"], references["population"])
            for name in ("forgotten", "unseen")
        }
        return attack(scores["forgotten"], scores["unseen"])

    def _said(
        self, method: Method, survivors: Sequence[int], work: Work, labels: Sequence[str], pool: Pool
    ) -> Likelihoods:
        """Of each sample's own label; nothing of one that the model has never heard of."""
        said = method.answer(survivors, work.built, pool)
        known = [labels.index(label) if label in labels else -1 for label in pool.labels]
        padded = np.concatenate([said, np.zeros((len(said), 1))], axis=1)
        return likelihoods(padded, np.array(known, dtype=np.int64))

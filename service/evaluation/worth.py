"""Whether a prompt is worth its cost: cross-validation in a cluster, prompt with head against the head alone.

Folds are drawn from the images' digests, so a cluster is judged by its own samples only, and always in the same way.
A prompt costs a second pass of the backbone for each answer and nearly all of the training: where it wins nothing, say
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.spec import PromptSpec, sha256
from service.evaluation import learners
from service.evaluation.clustered import Clustered, tree_spec
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import Part, Setting
from service.evaluation.pool import Pool
from service.evaluation.workshop import Spent

FOLDS = 3
CLUSTERS = 10  # that are judged, if there are more: those with the smallest keys, hence any


@dataclass(frozen=True)
class Worth:
    """A judged cluster: numbers of members and of labels, and the share of held-out members that each names rightly."""

    members: int
    labels: int
    prompt: float
    head: float


def judge(setting: Setting, spent: Spent = lambda sample_epochs: None) -> list[Worth]:
    """Judge some of the tree's clusters, made of all samples of the pool."""
    parts = Clustered(setting, tree_spec(setting.budget)).parts(range(len(setting.pool)))
    chosen = sorted((part for part in parts if part.sample_epochs), key=lambda part: part.key)[:CLUSTERS]
    return [_judge(setting, part, spent) for part in chosen]


def _judge(setting: Setting, part: Part, spent: Spent) -> Worth:
    members = setting.pool.take(part.rows)
    fold = np.array([int(sha256(b"oubli/fold/1", digest.encode())[:8], 16) % FOLDS for digest in members.digests])
    right = {"prompt": 0, "head": 0}
    for number in range(FOLDS):
        learned_from = members.take(np.flatnonzero(fold != number).tolist())
        asked = members.take(np.flatnonzero(fold == number).tolist())
        if not len(learned_from) or not len(asked):
            continue
        for name, said in _both(setting, f"{part.key}/{number}", learned_from, asked).items():
            right[name] += said
        spent(setting.budget.training.epochs_of(len(learned_from)) * len(learned_from))
    labels = len(set(members.labels))
    return Worth(len(members), labels, right["prompt"] / len(members), right["head"] / len(members))


def _both(setting: Setting, key: str, learned_from: Pool, asked: Pool) -> dict[str, int]:
    """How many of those asked each names rightly."""
    backbone, training = setting.backbone, setting.budget.training
    bare = replace(training, prompt=PromptSpec(kind="none"))
    prompt = learners.build_prompt(backbone, training, key, learned_from.members, start=setting.start)
    head = learners.build_head(backbone, bare, key, learned_from)
    return {
        "prompt": _right(prompt, learners.ask_prompt(backbone, training, prompt, asked), asked.labels),
        "head": _right(head, learners.ask_head(bare, head, asked), asked.labels),
    }


def _right(learned: Learned, said: Probabilities, truth: Sequence[str]) -> int:
    return sum(learned.labels[index] == label for index, label in zip(said.argmax(axis=1), truth, strict=True))

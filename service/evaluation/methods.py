"""The methods of the table, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.spec import PartitionSpec
from service.evaluation.clustered import Clustered, Fused, tree_spec
from service.evaluation.core import Pooled, core
from service.evaluation.method import Method, Setting
from service.evaluation.sharded import Sharded
from service.evaluation.whole import Ridge, linear, one_prompt, retrain


def _random_part_tuning(setting: Setting) -> Clustered:
    clusters = setting.budget.clusters or len(_tree(setting).parts(range(len(setting.pool))))
    return Clustered(setting, PartitionSpec(kind="random", clusters=clusters))


def _tree(setting: Setting) -> Clustered:
    return Clustered(setting, tree_spec(setting.budget))


def _feature_prompt(setting: Setting) -> Pooled:
    return Pooled(one_prompt(setting, setting.budget.features), Ridge(setting))


def _feature_tree(setting: Setting) -> Fused:
    return Fused(setting, setting.budget.features)


def _head_only(setting: Setting) -> Clustered:
    return Clustered(setting, tree_spec(setting.budget), prompts=False)


def _lmeraser(setting: Setting) -> Clustered:
    budget = setting.budget
    return Clustered(
        setting, PartitionSpec(kind="anchors", anchors=budget.anchors, distance_threshold=budget.threshold)
    )


@dataclass(frozen=True)
class Named:
    """A method by name, and one line for people."""

    make: Callable[[Setting], Method]
    about: str
    trains: bool = True  # whether the backbone takes part, so that it takes long


METHODS: dict[str, Named] = {
    "lmeraser": Named(_lmeraser, "the paper: average linkage of private anchors, a prompt and a head a cluster"),
    "tree": Named(Fused, "ours: a cut of a public tree, a prompt and a head a cluster, fused with the closed form"),
    "random_part_tuning": Named(_random_part_tuning, "the paper's baseline: clusters by chance, one of them answers"),
    "one_prompt": Named(one_prompt, "one prompt and head on everything"),
    "feature_prompt": Named(_feature_prompt, "one feature prompt and head on everything, pooled with the closed form"),
    "feature_tree": Named(
        _feature_tree, "ours, with feature prompts: a head and a prompt a cluster of the tree, fused"
    ),
    "core": Named(
        core, "a feature prompt of a core; the closed form of all on what it sees, pooled with the frozen one"
    ),
    "sisa": Named(Sharded, "SISA: shards by chance, trained slice by slice, all of them answer"),
    "retrain": Named(retrain, "the gold standard: the whole network fine-tuned on everything"),
    "head_only": Named(_head_only, "the tree's clusters, no prompt", False),
    "ridge": Named(Ridge, "the closed form alone: ridge regression that subtracts exactly", False),
    "linear": Named(linear, "one linear head on everything, no prompt", False),
}


def make_method(name: str, setting: Setting) -> Method:
    """Raises ValueError for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}. Known: {', '.join(METHODS)}.")
    return METHODS[name].make(setting)

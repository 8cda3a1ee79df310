"""Search for hyperparameters by Optuna's TPE (Bergstra et al., NeurIPS 2011).

Chosen on samples that are held out of those to learn from, never on test images. Every try is kept in `out/search.db`:
a search that was broken off goes on, and a longer one takes over what a shorter one has tried.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spec import TrainingSpec, canonical_json, sha256
from service.errors import Misconfigured
from service.evaluation.method import Setting
from service.evaluation.methods import make_method
from service.evaluation.study import Bench, Study
from service.evaluation.workshop import Spent, build

if TYPE_CHECKING:
    import optuna

HELD_OUT = 3  # of three samples one is held out
INIT_STDS = [0.0, 0.01, 0.1, 1.0]  # 1 is the reference code's


@dataclass(frozen=True)
class SearchResult:
    """Accuracy on the held-out samples, of the best try, of every try, and how much each setting matters (fANOVA)."""

    best: dict[str, Any]
    tries: list[dict[str, Any]]
    importance: dict[str, float]


def search(
    study: Study,
    bench: Bench,
    method: str,
    tries: int,
    done: Callable[[], None],
    spent: Spent = lambda sample_epochs: None,
) -> SearchResult:
    """Try settings of one method until there are so many tries. Raises Misconfigured without Optuna."""
    optuna = _optuna()
    study.out.mkdir(parents=True, exist_ok=True)
    made_from = [bench.backbone.digest, list(bench.samples.digests), method, study.budget.training.record()]
    found = optuna.create_study(
        study_name=f"{method}-{sha256(canonical_json(made_from))[:16]}",
        storage=_storage(optuna, study.out / "search.db"),
        sampler=optuna.samplers.TPESampler(seed=404),
        direction="maximize",
        load_if_exists=True,
    )
    first = {"prompt_lr": 0.03, "head_lr": 0.05, "epochs": 4, "init_std": 0.0, "size": bench.backbone.input_size // 8}
    if not found.trials:
        found.enqueue_trial(first)
    while len(_complete(found)) < tries:
        found.optimize(lambda trial: _accuracy(study, bench, method, trial, spent), n_trials=1)
        done()
    complete = _complete(found)
    return SearchResult(
        best={"accuracy": found.best_value, **found.best_params},
        tries=[{"accuracy": trial.value, **trial.params} for trial in complete],
        importance=optuna.importance.get_param_importances(found) if len(complete) > 3 else {},
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise Misconfigured("A search needs Optuna: pip install 'oubli-server[evaluate]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(optuna: Any, path: Path) -> Any:
    """Optuna's tables in that file, whatever its name: as part of a URL, a `?` in it would not be a character."""
    connect = partial(sqlite3.connect, path.resolve(), check_same_thread=False)
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})


def _complete(found: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in found.trials if trial.value is not None]


def _accuracy(study: Study, bench: Bench, method: str, trial: optuna.Trial, spent: Spent) -> float:
    """Of that method, on every third sample, learned from the others."""
    budget = replace(study.budget, training=_suggest(study.budget.training, trial, bench.backbone.input_size))
    count = len(bench.samples)
    held_out = bench.samples.take(range(0, count, HELD_OUT))
    pool = bench.samples.take([row for row in range(count) if row % HELD_OUT])
    made = make_method(method, Setting(bench.backbone, pool, budget))
    work = build(made, range(len(pool)), spent=spent)
    labels = sorted(set(pool.labels))
    said = made.answer(range(len(pool)), work.built, held_out).argmax(axis=1)
    return float(np.mean([labels[index] == label for index, label in zip(said, held_out.labels, strict=True)]))


def _suggest(training: TrainingSpec, trial: optuna.Trial, input_size: int) -> TrainingSpec:
    prompt = replace(
        training.prompt,
        init_std=trial.suggest_categorical("init_std", INIT_STDS),
        size=trial.suggest_int("size", max(1, input_size // 24), input_size // 4),
    )
    return replace(
        training,
        prompt_lr=trial.suggest_float("prompt_lr", 0.003, 1.0, log=True),
        head_lr=trial.suggest_float("head_lr", 0.005, 0.5, log=True),
        epochs=trial.suggest_int("epochs", 2, 8),
        prompt=prompt,
    )


def write(found: SearchResult, path: Path) -> None:
    """As JSON, the best tries first."""
    tries = sorted(found.tries, key=lambda one: -one["accuracy"])
    path.write_text(json.dumps({"best": found.best, "importance": found.importance, "tries": tries}, indent=1))

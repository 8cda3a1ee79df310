"""A study: all methods on one data set, built, asked, counted and attacked; over processes, and resumable.

Every task writes its figures into `out/runs`, named after all that they depend on, and every part that is built is kept
in `out/parts` by its key. Run again, a study goes on where it stopped; with other settings it keeps both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models import determinism
from models.backbone import Backbone, load_backbone
from models.choice import constants
from models.descriptor_kind import DescriptorKind
from models.image import pixel_digest
from models.meta_prompt import read_meta_prompt
from models.spec import canonical_json, member_digest, sha256
from models.training import TrainingExample, train, values_digest
from service.evaluation import forgetting, learners, trial, worth
from service.evaluation.clustered import Fused
from service.evaluation.core import Pooled
from service.evaluation.data_sets import DataSet, load_data_set
from service.evaluation.method import Budget, Method, Setting
from service.evaluation.methods import METHODS, make_method
from service.evaluation.pool import Pool, describe_pool
from service.evaluation.trial import Scale
from service.evaluation.workshop import Spent, Work, build

THREADS = 1  # of each process: two processes of one thread beat one of two


@dataclass(frozen=True)
class Study:
    """The parameters of a study. Its paths are those of this machine: no result is named after them.

    data, train, test     a name that `load_data_set` knows, and how many images at most.
    backbone, input_size  a name that `load_backbone` knows; `checkpoint` and `md5` for one of the paper's own files.
    seeds                 orders of arrival, hence other keys and other trainings.
    trial                 None for no exactness and no attack.
    meta_prompt           a file that prompts start from; `budget` names its digest.
    core_data             another data set that the core's samples come from; `budget` says how many.
    """

    data: str
    out: Path
    root: Path
    methods: tuple[str, ...] = tuple(METHODS)
    train: int | None = None
    test: int | None = None
    backbone: str = "efficientnet-lite0"
    input_size: int | None = None
    checkpoint: Path | None = None
    md5: str | None = None
    seeds: int = 3
    budget: Budget = field(default_factory=Budget)
    trial: Scale | None = field(default_factory=Scale)
    meta_prompt: Path | None = None
    core_data: str | None = None

    def load_backbone(self, device: str) -> Backbone:
        """Raises UnknownBackbone."""
        return load_backbone(
            self.backbone,
            input_size=self.input_size,
            device=device,
            checkpoint=self.checkpoint,
            md5=self.md5,
            kind=DescriptorKind(mirrored=self.budget.training.flip),
        )

    def load_data(self, *, download: bool = False) -> DataSet:
        """Raises MissingDataSet."""
        return load_data_set(self.data, root=self.root, download=download, train=self.train, test=self.test)

    def load_core(self) -> tuple[TrainingExample, ...] | None:
        """Samples of the core that are not in the pool. Raises MissingDataSet."""
        if self.core_data is None or "core" not in self.methods:
            return None
        return tuple(load_data_set(self.core_data, root=self.root, train=self.budget.core).train)


@dataclass(frozen=True)
class Task:
    """One method with one order of arrival; or, with seed None, its trial, or what its prompts are worth."""

    method: str
    seed: int | None
    kind: Literal["table", "trial", "worth"] = "table"

    def __str__(self) -> str:
        return f"{self.method}-{self.kind if self.seed is None else self.seed}"


def tasks_of(study: Study, samples: int) -> dict[Task, int]:
    """Every task, the longest first, with about how many sample-epochs it takes."""
    epochs = study.budget.training.epochs_of(samples)
    found = {Task(name, seed): samples * epochs for name in study.methods for seed in range(study.seeds)}
    if study.trial is not None:
        builds = 4 + study.trial.references
        found |= {Task(name, None, "trial"): study.trial.members * epochs * builds for name in study.methods}
    if "tree" in study.methods:
        found[Task("tree", None, "worth")] = min(samples, worth.CLUSTERS * study.budget.cap) * epochs * 2
    weights = {task: work * (METHODS[task.method].trains * 100 + 1) for task, work in found.items()}
    return {task: found[task] for task in sorted(found, key=lambda task: -weights[task])}


class Bench:
    """One process's share of a study: backbone and samples, loaded once, and tasks run one after the other."""

    def __init__(self, study: Study, device: str, describing: Callable[[int], None] = lambda images: None) -> None:
        determinism.configure(threads=THREADS, device=device)
        self._study = study
        self._device = device
        self.backbone = study.load_backbone(device)
        data = study.load_data()
        pools = study.out / "pools"
        self.samples = describe_pool(self.backbone, data.train, folder=pools, progress=describing)
        self.queries = describe_pool(self.backbone, data.test, folder=pools, progress=describing)
        budget = study.budget
        self._start = (
            read_meta_prompt(study.meta_prompt, budget.training.prompt, self.backbone.input_size)
            if study.meta_prompt is not None
            else None
        )
        self._core = study.load_core()
        self._warm_up()

    def _warm_up(self) -> None:
        """Train once, so that what PyTorch loads at its first step, and folding, count as no task's training time."""
        if any(METHODS[name].trains for name in self._study.methods):
            two = [TrainingExample(self.samples.members[0].pixels, label) for label in ("one", "other")]
            spec = replace(self._study.budget.training, epochs=1, batch_size=2)
            train(self.backbone, spec, key="", members=two, start=self._start)

    def check(self) -> None:
        """Raise ValueError for what no method could be made with, before anything is trained."""
        for name in self._study.methods:
            make_method(name, self._setting(self.samples))

    def _setting(self, pool: Pool) -> Setting:
        return Setting(self.backbone, pool, self._study.budget, self._start, self._core)

    def path_of(self, task: Task) -> Path:
        """Where its figures are kept, named after everything that they depend on."""
        study = self._study
        made_from = [
            [self.backbone.digest, sha256(*(d.encode() for d in (*self.samples.digests, "", *self.queries.digests)))],
            [sha256(*(label.encode() for label in (*self.samples.labels, "", *self.queries.labels)))],
            [asdict(study.budget), asdict(study.trial) if study.trial and task.kind == "trial" else None],
            determinism.fingerprint(threads=THREADS, device=self._device),
        ]
        if self._core is not None and task.method == "core":
            made_from.append([member_digest(pixel_digest(member.pixels), member.label) for member in self._core])
        name = sha256(b"oubli/run/1", canonical_json(made_from), str(task).encode())[:16]
        return study.out / "runs" / f"{task}-{name}.json"

    def run(self, task: Task, spent: Spent = lambda sample_epochs: None) -> dict[str, Any]:
        """Its figures; from the file, if they are there."""
        path = self.path_of(task)
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        figures = {**asdict(task), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        if task.seed is not None:
            figures |= self._table(task.method, task.seed, spent)
        else:
            figures |= self._trial(task, spent) if task.kind == "trial" else self._worth(spent)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(figures, indent=1))
        temporary.replace(path)
        return figures

    def _trial(self, task: Task, spent: Spent) -> dict[str, Any]:
        scale = self._study.trial
        if scale is None or len(self.samples) < scale.samples:
            raise ValueError(f"A trial needs {scale.samples if scale else 0} samples; there are {len(self.samples)}.")
        setting = self._setting(self.samples.take(range(scale.samples)))
        return trial.run(task.method, setting, scale, spent)

    def _worth(self, spent: Spent) -> dict[str, Any]:
        judged = worth.judge(self._setting(self.samples), spent)
        return {"clusters": [asdict(cluster) for cluster in judged]}

    def _table(self, name: str, seed: int, spent: Spent) -> dict[str, Any]:
        order = np.random.default_rng([404, seed]).permutation(len(self.samples)).tolist()
        pool = self.samples.take(order)
        method = make_method(name, self._setting(pool))
        rows = range(len(pool))
        work = build(method, rows, folder=self._study.out / "parts", spent=spent)
        started = time.perf_counter()
        accuracy = self._accuracy(method, pool, work)
        asking = time.perf_counter() - started
        rate = work.seconds / work.sample_epochs if work.sample_epochs else 0.0
        return {
            "accuracy": accuracy,
            "prompts_alone": self._accuracy(method.prompts, pool, work) if isinstance(method, Fused | Pooled) else None,
            "models": len(forgetting.models(work.parts)),
            "sizes": [len(part.rows) for part in forgetting.models(work.parts)],
            "expected_cost": forgetting.expected_cost(work.parts, len(pool)),
            "sample_epochs": work.sample_epochs,
            "seconds": work.seconds,
            "asking_seconds": asking,
            "passes": method.passes,
            "bytes": sum(learned.bytes for learned in work.built.values()),
            "costs": [
                asdict(cost) | {"seconds": cost.sample_epochs * rate + self._subtracting(name, pool, cost.gone)}
                for cost in forgetting.costs(method, len(pool), seed=seed)
            ],
        }

    def _accuracy(self, method: Method, pool: Pool, work: Work) -> float:
        labels = sorted(set(pool.labels))
        said = method.answer(range(len(pool)), work.built, self.queries)
        right = [labels[index] == label for index, label in zip(said.argmax(axis=1), self.queries.labels, strict=True)]
        return float(np.mean(right))

    def _subtracting(self, name: str, pool: Pool, gone: str) -> float:
        """Seconds to take samples out of the closed form and solve it again with the constants, where there is one."""
        if name not in ("ridge", "tree", "feature_tree", "feature_prompt", "core"):
            return 0.0
        count = forgetting.OWNED if gone == "owner" else int(gone)
        sums = learners.accumulators(pool)
        started = time.perf_counter()
        sums.remove(pool.descriptors[:count], pool.labels[:count])
        learners.ridge_of(constants(self._study.budget.closed_form), sums)
        return time.perf_counter() - started


def with_start(study: Study) -> Study:
    """The same, its budget naming the digest of the file that prompts start from."""
    if study.meta_prompt is None:
        return study
    backbone = study.load_backbone("cpu")
    prompt = study.budget.training.prompt
    digest = values_digest(read_meta_prompt(study.meta_prompt, prompt, backbone.input_size))
    training = replace(study.budget.training, prompt=replace(prompt, start=digest))
    return replace(study, budget=replace(study.budget, training=training))

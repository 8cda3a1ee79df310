"""Methods with one model of all samples: any deletion builds it again, except the ridge, which subtracts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from models.descent import Progress
from models.spec import PromptSpec, TrainingSpec, canonical_json, sha256
from service.evaluation import learners
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import BuiltModels, Part, Setting, cost_of
from service.evaluation.pool import Pool


class Whole:
    """A method with all samples in one part: `build` and `ask` are its own."""

    def __init__(
        self,
        setting: Setting,
        kind: str,
        training: TrainingSpec,
        build: Callable[[Part, Pool, Progress], Learned],
        ask: Callable[[Learned, Pool], Probabilities],
        *,
        passes: float = 1.0,
    ) -> None:
        self._setting, self._kind, self._training = setting, kind, training
        self._build, self._ask = build, ask
        self.passes = passes

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """One."""
        rows = tuple(survivors)
        key = self._setting.key(self._kind, rows, self._training)
        return [Part(key, rows, cost_of(self._setting.pool, rows, self._training))]

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """Build from all samples."""
        return self._build(part, self._setting.pool.take(part.rows), progress)

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """Its own."""
        (part,) = self.parts(survivors)
        learned = built[part.key]
        return learners.onto(self._setting.labels, learned, self._ask(learned, queries))


def one_prompt(setting: Setting, training: TrainingSpec | None = None) -> Whole:
    backbone, training = setting.backbone, training or setting.budget.training
    start = setting.start if training.prompt.start is not None else None

    def build(part: Part, samples: Pool, progress: Progress) -> Learned:
        return learners.build_prompt(backbone, training, part.key, samples.members, start=start, progress=progress)

    def ask(learned: Learned, queries: Pool) -> Probabilities:
        return learners.ask_prompt(backbone, training, learned, queries)

    return Whole(setting, "prompt", training, build, ask)


def linear(setting: Setting) -> Whole:
    backbone, training = setting.backbone, replace(setting.budget.training, prompt=PromptSpec(kind="none"))

    def build(part: Part, samples: Pool, progress: Progress) -> Learned:
        return learners.build_head(backbone, training, part.key, samples, progress=progress)

    return Whole(
        setting, "head", training, build, lambda learned, queries: learners.ask_head(training, learned, queries)
    )


def retrain(setting: Setting) -> Whole:
    backbone, training, lr = setting.backbone, setting.budget.training, setting.budget.network_lr

    def build(part: Part, samples: Pool, progress: Progress) -> Learned:
        return learners.build_network(backbone, training, part.key, samples, network_lr=lr, progress=progress)

    def ask(learned: Learned, queries: Pool) -> Probabilities:
        return learners.ask_network(backbone, training, learned, queries)

    return Whole(setting, f"network {lr}", training, build, ask)


class Ridge(Whole):
    """The closed form alone. Nothing is trained: a deletion subtracts from sums."""

    def __init__(self, setting: Setting) -> None:
        spec = setting.budget.closed_form
        self._spec = spec
        super().__init__(
            setting,
            "ridge",
            TrainingSpec(epochs=0),
            lambda part, samples, progress: learners.build_ridge(spec, samples),
            learners.ask_ridge,
        )

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """One part, named by its members, in whatever order."""
        members = sorted(self._setting.pool.member_digests(survivors))
        settings = canonical_json(asdict(self._spec))
        backbone = self._setting.backbone.digest.encode()
        key = sha256(b"oubli/ridge/2", backbone, settings, "\n".join(members).encode())
        return [Part(key, tuple(survivors), 0)]

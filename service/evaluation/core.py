"""A core: samples that are not meant to be withdrawn adapt the backbone once, for the closed form of all samples.

A sample outside the core is forgotten by a subtraction; a deletion in the core trains its feature prompt again, and
describes all samples anew, which no sample-epochs count. Nothing is deleted from a core of other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from models import fusion
from models.closed_form import accumulate
from models.descent import Progress
from models.descriptor import Descriptor
from models.embedding import describe_adapted
from models.image import pixel_digest
from models.spec import canonical_json, member_digest, prompt_key, sha256
from models.training import TrainingExample
from service.evaluation import learners
from service.evaluation.learners import Learned, Probabilities
from service.evaluation.method import BuiltModels, Method, Part, Setting, cost_of
from service.evaluation.pool import Pool
from service.evaluation.whole import Ridge


class Pooled:
    """Two methods, each as heard as the other: the normalised geometric mean of their probabilities."""

    def __init__(self, prompts: Method, beside: Method) -> None:
        self.prompts, self._beside = prompts, beside
        self.passes = prompts.passes + beside.passes

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """Those of both."""
        return [*self.prompts.parts(survivors), *self._beside.parts(survivors)]

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """Whose it is."""
        mine = {one.key for one in self._beside.parts(part.rows)}
        return (self._beside if part.key in mine else self.prompts).build(part, built, progress)

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """The mean of their log-probabilities, as probabilities."""
        said = [method.answer(survivors, built, queries) for method in (self.prompts, self._beside)]
        labels = [str(place) for place in range(said[0].shape[1])]
        return fusion.pool(labels, said[0], labels, said[1])


def core(setting: Setting) -> Pooled:
    """The closed form on adapted descriptors, and the frozen one."""
    return Pooled(_Adapted(setting), Ridge(setting))


class _Adapted:
    """A feature prompt that the core learned, and the closed form of all samples on what the backbone with it sees."""

    passes = 2.0

    def __init__(self, setting: Setting) -> None:
        self._setting, self._training = setting, setting.budget.features

    def parts(self, survivors: Sequence[int]) -> list[Part]:
        """The core's prompt, then the closed form: named by the prompt and by its members, in whatever order."""
        setting, spec = self._setting, self._setting.budget.closed_form
        prompt = self._of_others(setting.core) if setting.core is not None else self._of_the_first(survivors)
        key = prompt.key
        digests = "\n".join(sorted(setting.pool.member_digests(survivors))).encode()
        settings = canonical_json(asdict(spec))
        ridge = sha256(b"oubli/core-ridge/2", key.encode(), settings, digests)
        return [prompt, Part(ridge, tuple(survivors), 0, after=key)]

    def _of_the_first(self, survivors: Sequence[int]) -> Part:
        setting = self._setting
        members = tuple(survivors[: setting.budget.core])
        cost = cost_of(setting.pool, members, self._training)
        return Part(setting.key("core", members, self._training), members, cost)

    def _of_others(self, core: Sequence[TrainingExample]) -> Part:
        members = [member_digest(pixel_digest(member.pixels), member.label) for member in core]
        key = prompt_key(backbone_digest=self._setting.backbone.digest, training=self._training, members=members)
        epochs = self._training.epochs_of(len(core)) if len({member.label for member in core}) > 1 else 0
        return Part(sha256(b"oubli/core/1", key.encode()), (), epochs * len(core))

    def build(self, part: Part, built: BuiltModels, progress: Progress) -> Learned:
        """The prompt from its core, the closed form from everything."""
        setting, samples = self._setting, self._setting.pool.take(part.rows)
        if part.after is None:
            members = samples.members if setting.core is None else setting.core
            return learners.build_prompt(setting.backbone, self._training, part.key, members, progress=progress)
        descriptors = self._describe(built[part.after], samples)
        sums = accumulate(descriptors.shape[1], [(descriptors, samples.labels)], kind="adapted")
        return learners.chosen_ridge(setting.budget.closed_form, samples, descriptors, sums)

    def answer(self, survivors: Sequence[int], built: BuiltModels, queries: Pool) -> Probabilities:
        """The closed form's."""
        prompt, ridge = self.parts(survivors)
        learned = built[ridge.key]
        descriptors = self._describe(built[prompt.key], queries)
        said = learners.ask_solved(learned, descriptors)
        return learners.onto(self._setting.labels, learned, said)

    def _describe(self, prompt: Learned, samples: Pool) -> Descriptor:
        """What the adapted backbone sees, with the mirror images if training sees them."""
        backbone = self._setting.backbone
        images = [backbone.preprocessing.resize(member.pixels) for member in samples.members]
        views = 2 if self._training.flip else 1
        late = backbone.cuts.at(self._training.prompt.cut)
        return describe_adapted(backbone, late, prompt.tensors["values"], images, views=views)

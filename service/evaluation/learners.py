"""Models that a method can build from samples: a prompt with its head, a head, a whole network, a ridge regression.

Each is a pure function of backbone, spec, key and samples, as the service's own training is: the same bits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import head
from models.backbone import Backbone
from models.bank import shown_to, stack
from models.choice import Choice, choose, constants, is_choosable, select
from models.closed_form import Accumulators, ClosedFormHead, accumulate, solve
from models.descent import Batch, Order, Progress, descend
from models.descriptor import Descriptor
from models.embedding import BATCH
from models.spec import ClosedFormSpec, TrainingSpec, sha256
from models.training import TrainedPrompt, TrainingExample, train
from service.evaluation.pool import Pool

Probabilities = npt.NDArray[np.float64]  # [n, labels]


@dataclass(frozen=True)
class Learned:
    """A model that was built: tensors by name; row i of its answers belongs to labels[i]."""

    labels: tuple[str, ...]
    tensors: dict[str, Tensor]
    sample_epochs: int

    @property
    def digest(self) -> str:
        """Hex SHA-256 of labels and every bit."""
        parts = [label.encode() for label in self.labels]
        for name, tensor in sorted(self.tensors.items()):
            parts += [name.encode(), tensor.contiguous().numpy().tobytes()]
        return sha256(b"oubli/learned/1", *parts)

    @property
    def bytes(self) -> int:
        """What keeping it takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


# ------------------------------------------------------------------------------------------------- prompt with head


def build_prompt(
    backbone: Backbone,
    spec: TrainingSpec,
    key: str,
    members: Sequence[TrainingExample],
    *,
    start: Tensor | None = None,
    before: Learned | None = None,
    progress: Progress = lambda done, steps: None,
) -> Learned:
    """As the service's workers do."""
    earlier = as_prompt(before) if before is not None else None
    made = train(backbone, spec, key=key, members=members, start=start, before=earlier, progress=progress)
    tensors = {"values": made.values, "weight": made.weight, "bias": made.bias}
    return Learned(made.labels, tensors, made.sample_epochs)


def as_prompt(learned: Learned) -> TrainedPrompt:
    """As the models know it."""
    values, weight, bias = (learned.tensors[name] for name in ("values", "weight", "bias"))
    return TrainedPrompt(learned.labels, values, weight, bias, members=0, sample_epochs=learned.sample_epochs)


def ask_prompt(backbone: Backbone, spec: TrainingSpec, learned: Learned, queries: Pool) -> Probabilities:
    """As the service does: one more pass of the backbone, on prompted images."""
    bank = stack(backbone, spec, {"": as_prompt(learned)})
    answers = []
    for start in range(0, len(queries), BATCH):
        members = queries.members[start : start + BATCH]
        images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
        rows = torch.full((len(members),), bank.rows[""].index, dtype=torch.int64)
        answers.append(
            bank.probabilities(backbone, shown_to(backbone, spec, images), rows)[:, : len(learned.labels)]
            .double()
            .numpy()
        )
    return np.concatenate(answers)


# ----------------------------------------------------------------------------------------------------- head alone


def build_head(
    backbone: Backbone,
    spec: TrainingSpec,
    key: str,
    samples: Pool,
    *,
    progress: Progress = lambda done, steps: None,
) -> Learned:
    """Train a head on the embeddings of the images and of their mirror images; no further pass is needed."""
    labels = tuple(sorted(set(samples.labels)))
    weight, bias = torch.zeros((len(labels), backbone.dim)), torch.zeros(len(labels))
    learned = [tensor.requires_grad_(True) for tensor in (weight, bias)]
    epochs = spec.epochs_of(len(samples)) if len(labels) > 1 else 0
    if epochs:
        features = torch.from_numpy(np.stack([samples.embeddings, samples.mirrored]))
        targets = torch.tensor([labels.index(label) for label in samples.labels])

        def loss(batch: Batch) -> Tensor:
            chosen = features[batch.mirrored.long(), batch.rows]
            return batch.loss(head.logits(chosen, weight, bias, spec.scale), targets[batch.rows])

        groups = [{"params": learned, "lr": spec.head_lr}]
        descend(spec, Order(spec, key, len(samples)), groups, loss, progress)
    return Learned(labels, {"weight": weight.detach(), "bias": bias.detach()}, epochs * len(samples))


def ask_head(spec: TrainingSpec, learned: Learned, queries: Pool) -> Probabilities:
    """From the embeddings that routed the queries."""
    features = torch.from_numpy(np.ascontiguousarray(queries.embeddings))
    scores = head.logits(features, learned.tensors["weight"], learned.tensors["bias"], spec.scale)
    probabilities: Probabilities = scores.softmax(dim=1).double().numpy()
    return probabilities


# --------------------------------------------------------------------------------------------------- whole network


def build_network(
    backbone: Backbone,
    spec: TrainingSpec,
    key: str,
    samples: Pool,
    *,
    network_lr: float,
    progress: Progress = lambda done, steps: None,
) -> Learned:
    """Every weight of the backbone fine-tuned, with a head; the statistics of its BatchNorms stay fixed."""
    labels = tuple(sorted(set(samples.labels)))
    network = backbone.copy_of_network().requires_grad_(True)
    weight = torch.zeros((len(labels), backbone.dim), device=backbone.device, requires_grad=True)
    bias = torch.zeros(len(labels), device=backbone.device, requires_grad=True)
    epochs = spec.epochs_of(len(samples)) if len(labels) > 1 else 0
    if epochs:
        images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in samples.members])
        targets = torch.tensor([labels.index(label) for label in samples.labels])

        def loss(batch: Batch) -> Tensor:
            chosen = torch.where(batch.mirrored.view(-1, 1, 1, 1), images[batch.rows].flip(3), images[batch.rows])
            features = network(_normalised(backbone, chosen))
            return batch.loss(head.logits(features, weight, bias, spec.scale), targets[batch.rows].to(backbone.device))

        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        groups = [{"params": parameters, "lr": network_lr}, {"params": [weight, bias], "lr": spec.head_lr}]
        descend(spec, Order(spec, key, len(samples)), groups, loss, progress)
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {"weight": weight, "bias": bias}
    return Learned(labels, {n: t.detach().cpu().clone() for n, t in tensors.items()}, epochs * len(samples))


def ask_network(backbone: Backbone, spec: TrainingSpec, learned: Learned, queries: Pool) -> Probabilities:
    """One pass of a network of its own."""
    network = backbone.copy_of_network()
    prefix = "network."
    network.load_state_dict({n.removeprefix(prefix): t for n, t in learned.tensors.items() if n.startswith(prefix)})
    weight, bias = (learned.tensors[name].to(backbone.device) for name in ("weight", "bias"))
    answers = []
    with torch.inference_mode():
        for start in range(0, len(queries), BATCH):
            members = queries.members[start : start + BATCH]
            images = torch.stack([backbone.preprocessing.resize(member.pixels) for member in members])
            features = network(_normalised(backbone, images))
            answers.append(head.logits(features, weight, bias, spec.scale).softmax(dim=1).cpu().double().numpy())
    return np.concatenate(answers)


def _normalised(backbone: Backbone, images: Tensor) -> Tensor:
    ready = backbone.preprocessing.normalise(images.to(backbone.device))
    return ready.to(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------ ridge regression


def accumulators(samples: Pool) -> Accumulators:
    """Sums over all samples, exact in integers."""
    width = samples.descriptors.shape[1]
    return accumulate(width, [(samples.descriptors, samples.labels)] if len(samples) else [], kind=samples.kind)


class _Chooser(NamedTuple):
    """A sample of a pool, by its place there."""

    place: int
    digest: str
    label: str


def build_ridge(spec: ClosedFormSpec, samples: Pool) -> Learned:
    """The service's closed form; what is kept are its sums, of which it is solved, lambda and temperature."""
    return chosen_ridge(spec, samples, samples.descriptors, accumulators(samples))


def chosen_ridge(spec: ClosedFormSpec, samples: Pool, descriptors: Descriptor, sums: Accumulators) -> Learned:
    """Solved from the sums of these descriptors, with the lambda and temperature that they choose."""
    if not is_choosable(sums.counts, spec):
        return ridge_of(constants(spec), sums)
    numbered = zip(range(len(samples)), samples.digests, samples.labels, strict=True)
    chosen = select([_Chooser(*one) for one in numbered], sums.counts)
    rows, labels = descriptors[[one.place for one in chosen]], [one.label for one in chosen]
    return ridge_of(choose(sums, rows, labels, spec=spec), sums)


def ridge_of(choice: Choice, sums: Accumulators) -> Learned:
    """Solved from its sums."""
    solved = solve(sums, ridge=choice.ridge)
    kept = np.concatenate([sums.gram.ravel(), *(sums.sums[label] for label in solved.labels)]) + 0.0
    tensors = {
        "sums": torch.from_numpy(kept),
        "weight": torch.from_numpy(np.ascontiguousarray(solved.weight)),
        "settings": torch.tensor([choice.ridge, choice.temperature], dtype=torch.float64),
    }
    return Learned(solved.labels, tensors, 0)


def ask_ridge(learned: Learned, queries: Pool) -> Probabilities:
    """From the descriptors that came with routing."""
    return ask_solved(learned, queries.descriptors)


def ask_solved(learned: Learned, descriptors: Descriptor) -> Probabilities:
    """From descriptors of whatever kind the ridge was built of."""
    solved = ClosedFormHead(learned.labels, learned.tensors["weight"].numpy())
    return solved.scores(descriptors, learned.tensors["settings"][1].item())


def onto(labels: Sequence[str], learned: Learned, said: Probabilities) -> Probabilities:
    """[n, labels] of what one learner says of its own labels; zero for those it has never seen."""
    spread = np.zeros((len(said), len(labels)))
    spread[:, [labels.index(label) for label in learned.labels]] = said
    return spread

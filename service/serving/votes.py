"""The answers of a batch, and whether they are still valid: votes of prompts, at one moment of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from models import fusion
from models.bank import BankRow
from models.closed_form import Sums
from models.descriptor import Descriptor
from service.errors import ServiceError
from service.serving.adapted import Adapted
from service.serving.closed_form import Solved
from service.serving.jobs import Answer
from service.serving.snapshot import Snapshot


@dataclass(frozen=True)
class Vote:
    """A prompt's say about one image; without a `row` no prompt is asked about it.

    cluster   whose prompt it is; without one, the image's own cluster, if it has any.
    degraded  the image's own cluster serves no prompt.
    """

    cluster: str | None
    degraded: bool
    row: BankRow | None = None
    is_computed: bool = False
    probabilities: Mapping[str, float] = field(default_factory=dict)


class Said(NamedTuple):
    """What a head says of n queries: `probabilities` [n, labels]; column i belongs to labels[i]."""

    labels: tuple[str, ...]
    probabilities: Sums


@dataclass(frozen=True)
class Moment:
    """The sources of answers at one moment: a snapshot, and the closed-form heads, frozen and adapted, that answer."""

    snapshot: Snapshot
    solved: Solved | None
    adapted: Adapted | None = None

    @property
    def removals(self) -> int:
        """How many removed samples the closed-form head has taken out; -1 without a head."""
        return self.solved.marks.removals if self.solved is not None else -1


@dataclass(frozen=True)
class Round:
    """The answers to a batch, computed at one moment; `votes` in the order of the queries, as are `answers`."""

    moment: Moment
    votes: Sequence[Vote | ServiceError]
    answers: Sequence[Answer | ServiceError]

    def is_valid(self, now: Moment) -> bool:
        """Whether the answers may be given now: nothing that they use has been withdrawn or taken out since."""
        is_current = self.moment.adapted is None or is_same(self.moment.adapted, now.adapted)
        return None not in self.valid_votes(now) and self.moment.removals == now.removals and is_current

    def valid_votes(self, now: Moment) -> list[Vote | ServiceError | None]:
        """The votes that may still be used; None in place of those that must be computed again.

        All of them must be where images are routed otherwise now: by another layout, or with a closed-form head that
        was not there, or is not any more.
        """
        before = self.moment
        rerouted = now.snapshot.layout is not before.snapshot.layout or (now.solved is None) != (before.solved is None)
        return [None if rerouted or _is_withdrawn(vote, now.snapshot) else vote for vote in self.votes]


def is_same(before: Adapted, now: Adapted | None) -> bool:
    """Whether that adapter is still in force, and no sample was removed since."""
    return now is not None and (before.publication, before.marks.removals) == (now.publication, now.marks.removals)


def _is_withdrawn(vote: Vote | ServiceError, snapshot: Snapshot) -> bool:
    """Whether the vote's prompt is no longer served from the bank's row that the vote was read from."""
    return isinstance(vote, Vote) and vote.row is not None and not snapshot.serves(vote.row)


def fuse(
    votes: Sequence[Vote | ServiceError],
    descriptors: Descriptor,
    solved: Solved | None,
    *,
    beside: Said | None = None,
) -> list[Answer | ServiceError]:
    """One answer a query: the prompt's probabilities, the closed-form head's, or a weighted mean of both.

    descriptors  [n, width], of the queries.
    beside       what the adapted tier says of all votes, if it is asked as well.
    """
    places = [place for place, vote in enumerate(votes) if isinstance(vote, Vote)]
    scores: dict[int, dict[str, float]] = {}
    if solved is not None and solved.head is not None and places:
        labels = solved.head.labels
        said = solved.head.scores(descriptors[places], solved.choice.temperature)
        if beside is not None:
            said = fusion.pool(labels, said, beside.labels, beside.probabilities[places])
        rows = said.tolist()
        scores = {place: dict(zip(labels, row, strict=True)) for place, row in zip(places, rows, strict=True)}
    return [
        _answer(vote, scores.get(place), solved) if isinstance(vote, Vote) else vote for place, vote in enumerate(votes)
    ]


def _answer(vote: Vote, closed_form: Mapping[str, float] | None, solved: Solved | None) -> Answer:
    """`closed_form` is what the head of `solved` says; None if it is not asked."""
    if closed_form is None or solved is None:
        tier, scores, solved = "prompt", vote.probabilities, None
    elif vote.row is None:
        tier, scores = "closed_form", closed_form
    else:
        tier = "fused"
        scores = fusion.fuse(vote.probabilities, closed_form, share=fusion.weight(vote.row.members, solved.samples))
    ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    prompt, head = vote.row.key if vote.row is not None else None, solved.head_name if solved is not None else None
    return Answer(tuple(ranked), vote.cluster, prompt, tier, vote.degraded, head)

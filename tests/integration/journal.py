"""What a client was told, and when: enough to say afterwards whether the service has broken its word.

Times are `time.monotonic()` of this one process, which sends every request. A request whose answer was lost, or that
answered with an error of the server, may have been carried out or not: both are legal, and noted as unknown.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OWN = "own-"


@dataclass(frozen=True)
class Contributed:
    """A sample that a client sent. `digest` (of its pixels) is nobody else's, nor is a label that begins with OWN."""

    owner: str
    label: str
    digest: str


@dataclass(frozen=True)
class Predicted:
    """An answer to one request of /predict."""

    started: float
    ended: float
    replica: int
    prompts: frozenset[str]
    labels: frozenset[str]
    degraded: int  # images that their own cluster's prompt did not answer


@dataclass(frozen=True)
class Accepted:
    """An erasure that was answered with 202."""

    id: str
    answered: float
    seconds: float  # from the first request to the answer, tries and pauses included
    prompts: frozenset[str]
    labels: frozenset[str]  # that nobody else ever had
    samples: frozenset[str]


@dataclass
class Journal:
    """All of it. Every method may be called by any thread."""

    predictions: list[Predicted] = field(default_factory=list)
    erasures: dict[str, Accepted] = field(default_factory=dict)
    survivors: dict[str, Contributed] = field(default_factory=dict)  # by sample id: acknowledged, erasure not asked for
    asked: dict[str, Contributed] = field(default_factory=dict)  # its erasure was asked for, and not answered (yet)
    erased: dict[str, Contributed] = field(default_factory=dict)  # its erasure was accepted
    unknown: dict[str, Contributed] = field(default_factory=dict)  # by digest: sent, and not acknowledged
    requests: Counter[str] = field(default_factory=Counter)  # by kind of request
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind of request and kind of failure
    broken: list[str] = field(default_factory=list)  # answers that no honest service gives
    slowest: dict[str, float] = field(default_factory=dict)  # seconds of one try, by kind of request
    lock: threading.RLock = field(default_factory=threading.RLock)

    # ------------------------------------------------------------------------------------------------- telling

    def tried(self, kind: str, seconds: float, failure: str | None) -> None:
        """One try of a request has ended."""
        with self.lock:
            self.requests[kind] += 1
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds)
            if failure is not None:
                self.failures[kind, failure] += 1

    def sending(self, item: Contributed) -> None:
        """A sample is about to be sent."""
        with self.lock:
            self.unknown[item.digest] = item

    def acknowledged(self, sample: dict[str, Any]) -> None:
        """201 for a sample that was sent."""
        with self.lock:
            self.survivors[sample["id"]] = self.unknown.pop(sample["digest"])

    def refused(self, item: Contributed) -> None:
        """The service said no: it has not taken the sample in."""
        with self.lock:
            self.unknown.pop(item.digest, None)

    def asking(self, ids: Iterable[str]) -> dict[str, Contributed]:
        """The erasure of these samples is about to be asked for; those that were held."""
        with self.lock:
            taken = {i: self.survivors.pop(i) for i in ids if i in self.survivors}
            self.asked |= taken
            return taken

    def accepted(self, erasure: dict[str, Any], taken: dict[str, Contributed], *, began: float, now: float) -> None:
        """202, received at `now`."""
        prompts = frozenset(touched["prompt_before"] for touched in erasure["clusters"]) - {None}
        with self.lock:
            self._erased(taken)
            known = self.erasures.get(erasure["id"])  # asked for twice: the first answer counts
            answered = min(now, known.answered) if known else now
            self.erasures[erasure["id"]] = Accepted(
                erasure["id"], answered, now - began, prompts, _own_labels(taken), frozenset(taken)
            )

    def already_gone(self, taken: dict[str, Contributed]) -> None:
        """404 for samples that were held: an earlier try, whose answer was lost, has forgotten them."""
        with self.lock:
            self._erased(taken)

    def _erased(self, taken: dict[str, Contributed]) -> None:
        for sample_id, item in taken.items():
            self.asked.pop(sample_id, None)
            self.erased[sample_id] = item

    def complain(self, words: str) -> None:
        """An answer that no honest service gives."""
        with self.lock:
            self.broken.append(words)

    def predicted(self, answer: Predicted) -> None:
        with self.lock:
            self.predictions.append(answer)

    # ------------------------------------------------------------------------------------------------- judging

    def withdrawn_answers(self) -> list[str]:
        """Answers to requests sent after an erasure's 202 that name a prompt it has withdrawn, or know a label it took.

        No image and none of these labels is ever sent twice: neither can come back honestly.
        """
        with self.lock:
            withdrawn = _first((e.prompts, e) for e in self.erasures.values())
            vanished = _first((e.labels, e) for e in self.erasures.values())
            predictions = list(self.predictions)
        found = []
        for one in predictions:
            for what, names, when in (("prompt", one.prompts, withdrawn), ("label", one.labels, vanished)):
                for name in names & when.keys():
                    erasure = when[name]
                    if one.started > erasure.answered:
                        late = one.started - erasure.answered
                        found.append(
                            f"replica {one.replica} answered with {what} {name[:16]}, asked {late:.3f} s after "
                            f"erasure {erasure.id} was accepted"
                        )
        return found

    def contradictions(self, *, listed: Sequence[dict[str, Any]], stored: set[str]) -> list[str]:
        """What the service holds, and in its store, against what it has said."""
        present = {sample["id"]: sample for sample in listed}
        with self.lock:
            found = list(self.broken)
            found += [f"sample {i} was acknowledged, and is lost" for i in self.survivors.keys() - present.keys()]
            found += [f"sample {i} was erased, and is held" for i in self.erased.keys() & present.keys()]
            found += [f"sample {i} was erased, and its file is kept" for i in self.erased.keys() & stored]
            found += [f"sample {i} is held without its file" for i in present.keys() - stored]
            strange = present.keys() - self.survivors.keys() - self.asked.keys() - self.erased.keys()
            found += [f"sample {i} was never sent" for i in strange if present[i]["digest"] not in self.unknown]
        return found

    def lost_erasures(self, listed: Sequence[dict[str, Any]]) -> list[str]:
        """Accepted ones that the service does not know, or has not completed."""
        states = {erasure["id"]: erasure["state"] for erasure in listed}
        with self.lock:
            return [
                f"erasure {i} was accepted, and is {states.get(i, 'unknown')}"
                for i in self.erasures
                if states.get(i) != "completed"
            ]


def _own_labels(taken: Mapping[str, Contributed]) -> frozenset[str]:
    return frozenset(item.label for item in taken.values() if item.label.startswith(OWN))


def _first(named: Iterable[tuple[frozenset[str], Accepted]]) -> dict[str, Accepted]:
    """For each name the erasure that was answered first."""
    found: dict[str, Accepted] = {}
    for names, erasure in named:
        for name in names:
            if name not in found or erasure.answered < found[name].answered:
                found[name] = erasure
    return found

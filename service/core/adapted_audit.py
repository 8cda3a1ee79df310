"""The audit of adapted descriptors: their files, and the sums that live replicas have of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from models.checkpoint import CheckpointMismatch
from models.closed_form import Accumulators
from service.artifacts import ObjectMissing
from service.core import adapting, sample_file
from service.core.context import Context
from service.core.environment import fingerprint
from service.core.finding import Finding
from service.registry import adapted, samples
from service.registry.records import Marks, Prompt, Replica
from service.registry.samples import SurvivorRecord


@dataclass(frozen=True)
class SamplesDescribed:
    """Samples that are learned from, and the ids of those that the adapter has not described yet."""

    survivors: Sequence[SurvivorRecord]
    missing: set[str]


def audit_adapted(
    context: Context, adapter: Prompt, of: SamplesDescribed, live: Sequence[Replica], marks: Marks, *, again: bool
) -> Iterator[Finding]:
    """Damaged files, on request (`again`) files of other numbers than the adapter gives, and replicas of other sums."""
    if of.missing:
        yield Finding("adapter", f"waits for {len(of.missing)} samples to be described")
    sums = Accumulators(adapting.width(context), kind=adapting.kind(adapter))
    whole = True
    values = _values(context, adapter) if again else None
    if again and values is None:
        yield Finding("adapter", "described samples in another environment, or is damaged: not compared", False)
    publication = adapted.publication_of(adapter.object_name)
    for sample in of.survivors:
        if sample.id in of.missing:
            continue
        subject = f"adapted descriptor of sample {sample.id}"
        try:
            data = context.store.get(adapted.object_name(publication, sample.id))
            found = adapting.decode(data, width=sums.dim)
        except (ObjectMissing, adapting.DamagedDescriptor, OSError) as error:
            yield Finding(subject, sample_file.words(error))
            whole = False
            continue
        if found.any():
            sums.add(found[None], [sample.label])
        if values is not None:
            try:
                pixels = sample_file.decode(context.store.get(samples.object_name(sample.id)), digest=sample.digest)
            except (ObjectMissing, sample_file.DamagedSample, OSError):
                continue  # reported with the samples
            if not np.array_equal(adapting.describe(context, values, [pixels.pixels])[0], found):
                yield Finding(subject, "is another than the adapter gives")
    yield from _replicas(live, marks, sums.digest() if whole else None)


def _values(context: Context, adapter: Prompt) -> Tensor | None:
    """The adapter's, if what it gives here can be compared."""
    if adapter.fingerprint != fingerprint(context):
        return None
    try:
        return adapting.read(context, adapter)
    except (ObjectMissing, CheckpointMismatch, OSError):
        return None  # reported with the prompts


def _replicas(live: Sequence[Replica], marks: Marks, expected: str | None) -> Iterator[Finding]:
    for replica in live:
        if replica.adapted_marks != marks or replica.adapted_digest is None:
            yield Finding(f"replica {replica.name}", "has not applied all changes of adapted descriptors yet")
        elif expected is None:
            yield Finding(f"replica {replica.name}", "cannot be compared: see the adapted descriptors", False)
        elif replica.adapted_digest != expected:
            yield Finding(f"replica {replica.name}", "has sums of adapted descriptors that the survivors do not imply")

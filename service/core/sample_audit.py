"""The audit of samples' files: pixels by their digest, descriptors by their kind; on request both computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from models.closed_form import quantise
from models.descriptor import Descriptor
from models.embedding import Embedding, describe
from service.artifacts import ObjectMissing
from service.core import sample_file
from service.core.context import Context
from service.core.finding import Advance, Finding
from service.core.implied import ImpliedClosedForm
from service.registry import samples
from service.registry.feed import Added
from service.registry.samples import SurvivorRecord


def audit_descriptions(
    survivors: Sequence[SurvivorRecord], held_out: Sequence[Added], undescribed: set[str]
) -> Iterator[Finding]:
    """Samples whose descriptors are of another kind than is wanted, by what is without them."""
    if count := sum(sample.id in undescribed for sample in survivors):
        yield Finding("closed-form tier", f"is without {count} samples, which wait to be described anew")
    if count := sum(sample.id in undescribed for sample in held_out):
        yield Finding("evaluation", f"waits for {count} samples to be described anew")


class SampleAudit:
    """Compares samples' files with their records.

    undescribed  ids of samples that wait to be described anew.
    again        compute embeddings and descriptors again, and compare them as well.
    """

    def __init__(self, context: Context, undescribed: set[str], *, again: bool, advance: Advance) -> None:
        self._context, self._undescribed, self._again, self._advance = context, undescribed, again, advance

    def differences(
        self,
        of: Sequence[SurvivorRecord | Added],
        vectors: dict[str, Embedding] | None = None,
        implied: ImpliedClosedForm | None = None,
    ) -> Iterator[Finding]:
        """The differences; adds recorded embeddings to `vectors`, and recorded descriptors to `implied`."""
        for done, sample in enumerate(of, start=1):
            self._advance("samples", done, len(of))
            try:
                data = self._context.store.get(samples.object_name(sample.id))
                contents = sample_file.decode(data, digest=sample.digest)
            except ObjectMissing:
                yield Finding(f"sample {sample.id}", "has no file in the store")
                continue
            except OSError as error:
                yield Finding(f"sample {sample.id}", f"cannot be read from the store: {error.strerror}")
                continue
            except sample_file.DamagedSample as damage:
                yield Finding(f"sample {sample.id}", f"is damaged: {damage}")
                continue
            if vectors is not None:
                vectors[sample.id] = contents.embedding
            yield from self._contents(sample, contents, implied)

    def _contents(
        self, sample: SurvivorRecord | Added, contents: sample_file.Contents, implied: ImpliedClosedForm | None
    ) -> Iterator[Finding]:
        descriptor = contents.descriptor
        if sample.id in self._undescribed:
            descriptor = None  # its file may be ahead of the record: then no replica has added it yet
        elif contents.kind != self._context.backbone.kind.name:
            descriptor = None
            yield Finding(f"sample {sample.id}", "has a descriptor of another kind than is on record")
        if self._again:
            yield from self._computed_again(sample.id, contents, descriptor)
        if descriptor is not None:
            try:
                if quantise(descriptor[None]).shape[1] != self._context.backbone.descriptor_width:
                    raise ValueError
                if implied is not None:
                    implied.add(sample, descriptor)
            except ValueError:
                yield Finding(f"sample {sample.id}", "has a descriptor that this backbone cannot have computed")

    def _computed_again(
        self, sample_id: str, contents: sample_file.Contents, descriptor: Descriptor | None
    ) -> Iterator[Finding]:
        backbone = self._context.backbone
        again = describe(backbone, [backbone.preprocessing.resize(contents.pixels)])
        if not np.array_equal(again.embeddings[0], contents.embedding):
            yield Finding(f"sample {sample_id}", "has another embedding than the one recorded at intake")
        if descriptor is not None and not np.array_equal(again.descriptors[0], descriptor):
            yield Finding(f"sample {sample_id}", "has another descriptor than the one recorded at intake")

"""The closed form that the survivors imply, computed from nothing: for an audit.

In memory: the sums, twice while lambda is chosen, and descriptors of at most `choice.MOST` samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from models.choice import choose, constants, digest_of, is_choosable, select
from models.closed_form import Accumulators
from models.descriptor import Descriptor
from service.core.context import Context
from service.registry.feed import Added
from service.registry.samples import SurvivorRecord


class ImpliedClosedForm:
    """Sums, and what lambda and temperature are chosen from; complete once every survivor was added."""

    def __init__(self, context: Context, survivors: Sequence[SurvivorRecord]) -> None:
        self._spec = context.closed_form
        self._sums = Accumulators(context.backbone.descriptor_width, kind=context.backbone.kind.name)
        self._expected = Counter(sample.label for sample in survivors)
        chosen = select(survivors, self._expected) if is_choosable(self._expected, self._spec) else []
        self._choosing: dict[str, tuple[Descriptor, str] | None] = {sample.id: None for sample in chosen}

    def add(self, sample: SurvivorRecord | Added, descriptor: Descriptor) -> None:
        """Add a survivor's descriptor [dim]. Raises ValueError for what is none."""
        self._sums.add(descriptor[None], [sample.label])
        if sample.id in self._choosing:
            self._choosing[sample.id] = (descriptor, sample.label)

    def digest(self) -> str | None:
        """Of the closed form at rest; None while a survivor is missing."""
        if self._sums.counts != self._expected:
            return None
        known = [known for known in self._choosing.values() if known is not None]
        if not known:
            return digest_of(self._sums.digest(), constants(self._spec))
        rows, labels = np.stack([row for row, _ in known]), [label for _, label in known]
        return digest_of(self._sums.digest(), choose(self._sums, rows, labels, spec=self._spec))

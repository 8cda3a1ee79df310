"""The context that every use case is given: settings, registry, store, clock and the public side of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from models.backbone import Backbone
from models.checkpoint import Identity
from models.partition import Partition
from models.prompt import values_shape
from models.spec import ClosedFormSpec, TrainingSpec
from service.artifacts import Store
from service.clock import Clock, system_clock
from service.core.layout_cache import LayoutCache
from service.errors import Misconfigured
from service.registry import state
from service.registry.backoff import Backoff
from service.registry.engine import ReadSession, Registry
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """One process's view of the service."""

    settings: Settings
    registry: Registry
    store: Store
    ledger: Store
    backbone: Backbone
    partition: Partition
    training: TrainingSpec
    closed_form: ClosedFormSpec
    clock: Clock = system_clock
    layout_cache: LayoutCache = field(default_factory=LayoutCache, compare=False)

    @property
    def backoff(self) -> Backoff:
        """The pauses of a cluster that loses prompts to deletions again and again."""
        chosen = self.settings.erasure
        return Backoff(timedelta(seconds=chosen.retrain_pause), timedelta(seconds=chosen.complete_within))

    @property
    def identity(self) -> Identity:
        """The identity that a prompt's artifact must have to be accepted here."""
        return self.identity_of(self.training)

    @property
    def adapting(self) -> TrainingSpec:
        """The training of the adapter."""
        return self.settings.adapting

    def identity_of(self, training: TrainingSpec) -> Identity:
        """The identity of the artifact of a prompt that is trained so."""
        return Identity(self.backbone.digest, self.backbone.dim, values_shape(training.prompt, self.backbone), training)


def require_bound(context: Context, session: ReadSession) -> None:
    """Raise Misconfigured unless the registry was made with these settings.

    Within a transaction that writes: another process may have bound the registry to other settings meanwhile.
    """
    made_with = state.made_with(session)
    kind = context.backbone.kind.name
    ours = (
        context.backbone.digest,
        context.partition.digest,
        context.training.digest(),
        context.adapting.digest(),
        kind,
    )
    if made_with != ours:
        names = ("backbone", "partition", "training", "core", "closed_form.features or training.flip")
        differ = [name for name, old, new in zip(names, made_with, ours, strict=True) if old != new]
        if "training" in differ and "core" in differ:
            differ.remove("core")  # the adapter's settings contain those of every training
        raise Misconfigured(
            f"This registry was made with other settings ({', '.join(differ)}). Set the variables that its service "
            "runs with; nothing has been changed."
        )

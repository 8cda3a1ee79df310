"""Snapshots: what is served at one serving epoch, as regions of the line and the bank's rows of their prompts.

Immutable, except for the bank, which all snapshots of a process share. A publication, a withdrawal or a re-cut moves
the epoch on, and the next batch is answered from a new snapshot: prompts that both serve stay in their rows of the
bank, prompts that only the old one served are dropped from it.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from models import checkpoint
from models.bank import BankRow, PromptBank
from models.partition import Interval, Layout
from models.training import TrainedPrompt
from service.artifacts import ObjectMissing, StoreUnavailable
from service.core import layouts
from service.core.context import Context
from service.registry import adapted, clusters, layout_state, prompts, state
from service.registry.records import Cluster, Prompt

log = logging.getLogger(__name__)

PATIENCE = 4.0  # pause before an unavailable store is asked again, as a multiple of the time that its answer took


@dataclass(frozen=True)
class Snapshot:
    """Served regions at one epoch. `rows[i]` is the bank row of clusters[i], None while it serves nothing."""

    epoch: int
    clusters: tuple[Cluster, ...]
    rows: tuple[BankRow | None, ...]
    bank: PromptBank
    loaded: Mapping[str, BankRow]  # by the object that each was read from
    layout: Layout | None  # None while positions mean nothing
    complete: bool  # False if a prompt or the layout could not be read, and may be next time
    again: float = 0.0  # when to try that again, monotonic seconds
    adapter: str | None = None  # publication of the adapter in force

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the served prompts."""
        return frozenset(row.key for row in self.loaded.values())

    @cached_property
    def live(self) -> frozenset[BankRow]:
        """The bank's rows of served prompts."""
        return frozenset(self.loaded.values())

    def serves(self, row: BankRow) -> bool:
        """Whether this very row is of a served prompt; not one of the same key that was dropped or filled again."""
        return row in self.live

    @property
    def served(self) -> list[int]:
        """Indices of the clusters that serve a prompt."""
        return [index for index, row in enumerate(self.rows) if row is not None]

    def covering(self, position: int) -> int | None:
        """Index of the cluster whose region covers this position."""
        index = bisect_right(self.clusters, position, key=lambda cluster: cluster.lo) - 1
        return index if index >= 0 and position < self.clusters[index].hi else None

    def region(self, index: int) -> Interval:
        """The region of a cluster."""
        return Interval(self.clusters[index].lo, self.clusters[index].hi)


def take_snapshot(context: Context, previous: Snapshot | None, *, epoch: int | None = None) -> Snapshot:
    """The present snapshot; `previous` itself if the epoch has not moved.

    epoch  the serving epoch, if it has just been read.
    """
    if epoch is None:
        with context.registry.read_one() as session:
            epoch = state.epoch(session)
    if previous is not None and previous.epoch == epoch and (previous.complete or time.monotonic() < previous.again):
        return previous
    with context.registry.read() as session:
        epoch = state.epoch(session)  # may have moved on
        existing = clusters.every(session)
        built = prompts.get(session, [c.serving_key for c in existing if c.serving_key is not None])
        record = layout_state.current(session)
        adapter = adapted.publication_in_force(session)
    layout = layouts.restore(context, record)
    known = previous.loaded if previous is not None else {}
    read, try_again, again = _read(context, [p for p in built.values() if p.object_name not in known])
    bank = previous.bank if previous is not None else PromptBank(context.backbone, context.training)
    loaded = _exchange(bank, known, built.values(), read)
    row_of = {row.key: row for row in loaded.values()}
    rows = tuple(row_of.get(cluster.serving_key or "") for cluster in existing)
    complete = not try_again and (layout is not None or record.digest is None)
    return Snapshot(epoch, tuple(existing), rows, bank, loaded, layout, complete, again, adapter)


def _exchange(
    bank: PromptBank, known: Mapping[str, BankRow], built: Iterable[Prompt], read: Mapping[str, TrainedPrompt]
) -> dict[str, BankRow]:
    """Bring the bank up to date; its rows by object.

    By object, not by key: a prompt that is built again in another environment has the same key and other bytes.
    """
    wanted = {prompt.object_name: prompt.key for prompt in built}
    for name, row in known.items():
        if name not in wanted:
            bank.drop(row.key)
    kept = {name: row for name, row in known.items() if name in wanted}
    return kept | {name: bank.put(wanted[name], prompt) for name, prompt in read.items()}


def _read(context: Context, missing: Iterable[Prompt]) -> tuple[dict[str, TrainedPrompt], bool, float]:
    """Prompts by their objects; whether some could not be read, and when to try again."""
    read: dict[str, TrainedPrompt] = {}
    try_again, again = False, 0.0
    for prompt in missing:
        loaded = None
        started = time.monotonic()
        if again == 0.0:
            try:
                loaded = _load(context, prompt)
            except OSError as error:
                log.error("prompt %s cannot be read just now: %s", prompt.key[:12], error.strerror)
                try_again = True
                if isinstance(error, StoreUnavailable):  # the other reads would fail too
                    now = time.monotonic()
                    again = now + PATIENCE * (now - started)
        if loaded is not None:
            read[prompt.object_name] = loaded
    return read, try_again, again


def _load(context: Context, prompt: Prompt) -> TrainedPrompt | None:
    """The prompt's tensors; None for a damaged artifact, which is withdrawn and built again. Raises OSError."""
    try:
        data = context.store.get(prompt.object_name)
        return checkpoint.load(
            data, key=prompt.key, digest=prompt.digest, labels=prompt.labels, identity=context.identity
        )
    except checkpoint.OtherIdentity:
        return None  # built with settings that have changed; its successor is being trained
    except (ObjectMissing, checkpoint.CheckpointMismatch) as error:
        with context.registry.read() as session:
            if not prompts.is_current(session, prompt):
                return None  # withdrawn, or built again, while it was being read
        log.error("prompt %s cannot be served and is built again: %s", prompt.key[:12], error)
        with context.registry.write() as session:
            if prompts.is_current(session, prompt):
                clusters.discard(session, prompt.key)
                prompts.drop_unserved(session)
                state.bump_epoch(session)
        return None

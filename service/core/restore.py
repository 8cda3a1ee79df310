"""After a backup was restored: finding what the erasure ledger says was erased, and erasing it again.

`check` changes nothing. `apply` accepts the erasures again, by the same transaction as any erasure: rows are deleted,
prompts that have seen the samples are withdrawn, objects are deleted; workers train withdrawn clusters again. Both can
be repeated, also after a run that was killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.artifacts import Store
from service.core import erasure, ledger
from service.core.context import Context
from service.core.ledger import Reading
from service.core.reconcile import reconcile
from service.errors import Conflict
from service.registry import destructions, replicas, samples, workers
from service.registry import ledger as rows
from service.registry.records import Tombstone

CHUNK = 50  # erasures replayed in one transaction


@dataclass(frozen=True)
class Check:
    """Differences between a restored registry and the ledger.

    returned   erased samples that are in the registry again, and the erasures that had deleted them.
    seen       erased samples without a row that a recorded prompt has seen.
    objects    of erased samples without a row, not scheduled for deletion.
    unknown    erasures that the registry does not know.
    unwritten  erasures whose tombstone the registry takes for written, and that have none in the ledger.
    illegible  objects of the ledger that cannot be read, and why.
    """

    reading: Reading
    returned: dict[str, str]
    seen: list[str]
    objects: list[str]
    unknown: list[str]
    unwritten: list[str]
    illegible: dict[str, str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing that was erased has come back, as far as the ledger can tell."""
        return not list(self.lines())

    def lines(self) -> Iterator[str]:
        """The differences in words, one a line; ids only."""
        for sample_id, erasure_id in self.returned.items():
            yield f"sample {sample_id} has come back: erasure {erasure_id} had erased it"
        for sample_id in self.seen:
            yield f"sample {sample_id} was erased, and a prompt that has seen it has come back"
        for name in self.objects:
            yield f"object {name} of an erased sample has come back"
        for erasure_id in self.unknown:
            yield f"erasure {erasure_id} is not known to the registry"
        for erasure_id in self.unwritten:
            yield f"erasure {erasure_id} is not in the ledger any more"
        for name, reason in self.illegible.items():
            yield f"ledger object {name} {reason}"


def check(context: Context, other: Store | None = None) -> Check:
    """Compare the registry and the store with the ledger, and with a second ledger, if given. Changes nothing.

    The ledger is read first, so that a service that runs meanwhile knows every erasure that was read.
    Raises Unavailable if a ledger cannot be listed.
    """
    reading = ledger.read(context.ledger)
    everything = _joined(reading, ledger.read(other)) if other is not None else reading
    erased = everything.samples()
    with context.registry.read() as session:
        ledger_states = rows.ledger_states(session)
        returned = rows.recorded(session, erased)
        seen = rows.seen(session, erased)
        pending = set(destructions.pending(session))
    by_sample = {i: tombstone.erasure for tombstone in everything.tombstones.values() for i in tombstone.samples}
    return Check(
        reading=everything,
        returned={sample_id: by_sample[sample_id] for sample_id in sorted(returned)},
        seen=sorted(seen - returned),
        objects=sorted(_objects(context, erased - returned) - pending),
        unknown=sorted(set(everything.tombstones) - set(ledger_states)),
        unwritten=ledger.without_tombstone(context, reading, ledger_states),
        illegible=everything.illegible,
    )


def _joined(reading: Reading, other: Reading) -> Reading:
    """The content of both ledgers. A tombstone that is illegible in one counts as read if the other has it."""
    tombstones = {**other.tombstones, **reading.tombstones}
    legible = {ledger.object_name(erasure_id) for erasure_id in tombstones}
    illegible = {**other.illegible, **reading.illegible}
    return Reading(tombstones, {name: reason for name, reason in illegible.items() if name not in legible})


def _objects(context: Context, sample_ids: set[str]) -> set[str]:
    """Names of the objects of these samples that are in the store."""
    wanted = {samples.object_name(sample_id) for sample_id in sample_ids}
    return {name for name in context.store.names("samples") if name in wanted}


def heard_from(context: Context) -> list[str]:
    """Names of the service's processes that run on this registry, or did until a moment ago."""
    with context.registry.read() as session:
        processes = [*workers.every(session), *replicas.every(session)]
    now, fresh = context.clock(), context.settings.worker.fresh
    return [process.name for process in processes if process.is_alive(now, fresh)]


def apply(context: Context, found: Check) -> None:
    """Erase again everything that came back, and correct what the registry says of the ledger.

    Raises Conflict while the service runs.
    """
    if running := heard_from(context):
        raise Conflict(
            f"The service runs on this registry, or did until a moment ago: {', '.join(running)}. Stop it, wait for "
            f"{context.settings.worker.fresh.total_seconds():.0f} seconds, and try again; nothing has been changed."
        )
    unknown, back = set(found.unknown), {*found.returned, *found.seen}
    tombstones = found.reading.tombstones.values()
    _replay(context, [t for t in tombstones if t.erasure in unknown or not back.isdisjoint(t.samples)])
    damaged = [name.removeprefix(f"{ledger.PREFIX}/").removesuffix(".json") for name in found.illegible]
    with context.registry.write(exclusive=True) as session:
        destructions.schedule(session, found.objects)
        known = rows.ledger_states(session).keys()
        rows.forget(session, [i for i in (*found.unwritten, *damaged) if i in known])
    reconcile(context, refit=False)  # plans, deletes, writes tombstones; what is left is recorded as open work


def _replay(context: Context, tombstones: Sequence[Tombstone]) -> None:
    """Accept erasures again, in the order in which they were accepted first."""
    ordered = sorted(tombstones, key=lambda tombstone: tombstone.erasure)
    for start in range(0, len(ordered), CHUNK):
        with context.registry.write(exclusive=True) as session:
            for tombstone in ordered[start : start + CHUNK]:
                erasure.replay(context, session, tombstone)

"""After a backup was restored: what the erasure ledger says was forgotten, and is there again.

`check` changes nothing. `apply` has it forgotten once more, by the transaction that accepts any erasure: rows go,
prompts that have seen them are withdrawn, bytes are destroyed; what is withdrawn is trained again by the workers. Both
can be run as often as one likes, also after one that was killed.
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
    """What is not as the ledger says.

    held       samples that are in the registry again, and the erasures that they had gone by.
    seen       samples that are not, and that a prompt on record has seen.
    objects    of samples that are not, and that nobody has seen to yet.
    unknown    erasures that the registry does not know.
    unwritten  erasures that the registry takes for written in the ledger, and that are not there.
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
        """Whether nothing that was erased has come back, for all that the ledger can say."""
        return not list(self.lines())

    def lines(self) -> Iterator[str]:
        """Each thing that was found, in words; ids only."""
        for sample_id, erasure_id in self.returned.items():
            yield f"sample {sample_id} has come back: erasure {erasure_id} had taken it out"
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
    """Compare the registry and the store with the ledger, and with another one beside it. Changes nothing.

    The ledger is read first: a service that runs meanwhile knows of every erasure that was read.
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
    """Both. What cannot be read in one does not matter if it can in the other."""
    tombstones = {**other.tombstones, **reading.tombstones}
    legible = {ledger.object_name(erasure_id) for erasure_id in tombstones}
    illegible = {**other.illegible, **reading.illegible}
    return Reading(tombstones, {name: reason for name, reason in illegible.items() if name not in legible})


def _objects(context: Context, sample_ids: set[str]) -> set[str]:
    """The objects of these samples that the store holds."""
    wanted = {samples.object_name(sample_id) for sample_id in sample_ids}
    return {name for name in context.store.names("samples") if name in wanted}


def heard_from(context: Context) -> list[str]:
    """Processes of the service that run on this registry, or ran a moment ago."""
    with context.registry.read() as session:
        crew = [*workers.every(session), *replicas.every(session)]
    now, fresh = context.clock(), context.settings.worker.fresh
    return [process.name for process in crew if process.is_alive(now, fresh)]


def apply(context: Context, found: Check) -> None:
    """Have everything that came back forgotten, its bytes first of all, and the books put straight.

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
    reconcile(context, refit=False)  # plans, destroys, writes tombstones; what it leaves undone is on record


def _replay(context: Context, tombstones: Sequence[Tombstone]) -> None:
    """In the order in which they were accepted."""
    ordered = sorted(tombstones, key=lambda tombstone: tombstone.erasure)
    for start in range(0, len(ordered), CHUNK):
        with context.registry.write(exclusive=True) as session:
            for tombstone in ordered[start : start + CHUNK]:
                erasure.replay(context, session, tombstone)

"""The erasure ledger: a tombstone for every accepted erasure, kept where restoring a backup does not undo it.

A tombstone is one object, `ledger/<erasure id>.json`, of random ids and a time: no owner, no label, no digest.
`reconcile` writes it, and tries again until it succeeds; writing it twice changes nothing. No erasure is completed
before its tombstone is written. A ledger that is unavailable or full delays completion, and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from service.artifacts import ObjectMissing, Store
from service.core.context import Context
from service.errors import Unavailable
from service.registry import ledger as rows
from service.registry.records import Tombstone

log = logging.getLogger(__name__)

PREFIX = "ledger"
MOST = 1000  # tombstones written in one pass
AT_ONCE = 8  # requests to the store at a time
CHUNK = 64


class Illegible(Exception):
    """The object is not a tombstone; the message says why."""


@dataclass(frozen=True)
class Reading:
    """The content of a ledger: tombstones by erasure id; for every other object, by name, what is wrong with it."""

    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    illegible: dict[str, str] = field(default_factory=dict)

    def samples(self) -> set[str]:
        """Ids of all samples that were ever erased."""
        return {sample_id for tombstone in self.tombstones.values() for sample_id in tombstone.samples}


def object_name(erasure_id: str) -> str:
    """The name of the object that is an erasure's tombstone."""
    return f"{PREFIX}/{erasure_id}.json"


def encode(tombstone: Tombstone) -> bytes:
    """A tombstone as JSON: the same bytes from every process."""
    entry = {
        "erasure": tombstone.erasure,
        "accepted_at": tombstone.accepted_at.isoformat(),
        "samples": sorted(tombstone.samples),
    }
    return json.dumps(entry, indent=1).encode() + b"\n"


def decode(name: str, data: bytes) -> Tombstone:
    """The tombstone of that name. Raises Illegible for anything but what `encode` writes under it."""
    try:
        entry: Any = json.loads(data)
        tombstone = Tombstone(
            erasure=_id(entry["erasure"]),
            accepted_at=datetime.fromisoformat(entry["accepted_at"]),
            samples=tuple(map(_id, entry["samples"])),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Illegible("is not a tombstone: damaged, or of another program") from None
    if object_name(tombstone.erasure) != name:
        raise Illegible(f"is the tombstone of another erasure, {tombstone.erasure}")
    if tombstone.accepted_at.tzinfo is None or not tombstone.samples:
        raise Illegible("is not a tombstone: it names no samples, or no time zone")
    return tombstone


def _id(text: str) -> str:
    if str(UUID(text)) != text:
        raise ValueError(text)
    return text


# ------------------------------------------------------------------------------------------------------ writing


def write_missing(context: Context) -> int:
    """Write missing tombstones, some at a time; how many were written. Failures are counted, and tried again later."""
    with context.registry.read() as session:
        missing = rows.missing(session, limit=MOST)
    if not missing:
        return 0
    written: list[str] = []
    failed: list[str] = []
    with ThreadPoolExecutor(min(AT_ONCE, len(missing)), "ledger") as executor:
        for chunk in _chunks(missing):
            outcomes = list(executor.map(lambda tombstone: _write(context.ledger, tombstone), chunk))
            written += [t.erasure for t, failure in zip(chunk, outcomes, strict=True) if failure is None]
            failed += [t.erasure for t, failure in zip(chunk, outcomes, strict=True) if failure is not None]
            failures = [failure for failure in outcomes if failure is not None]
            if failures:
                log.error("%d tombstones cannot be written to the erasure ledger: %s", len(failures), failures[0])
            if len(failures) == len(chunk):
                break  # the ledger is unavailable or full: the others would fail as well
    with context.registry.write_beside_plans() as session:
        rows.noted(session, written)
        rows.not_noted(session, failed)
    return len(written)


def _write(store: Store, tombstone: Tombstone) -> str | None:
    """Write a tombstone; why it could not be written, or None."""
    try:
        store.put(object_name(tombstone.erasure), encode(tombstone))
    except Exception as error:  # whatever the store's client raises: the other erasures must go on
        return words(error)
    return None


def _chunks(tombstones: Sequence[Tombstone]) -> Iterator[Sequence[Tombstone]]:
    """The tombstones in chunks. The first is small: if none of it can be written, the pass ends after it."""
    yield tombstones[:AT_ONCE]
    for start in range(AT_ONCE, len(tombstones), CHUNK):
        yield tombstones[start : start + CHUNK]


def words(error: Exception) -> str:
    """An error of a store in words, for people."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ------------------------------------------------------------------------------------------------------ reading


def read(store: Store) -> Reading:
    """The whole ledger. Raises Unavailable if it cannot even be listed."""
    reading = Reading()
    try:
        names = sorted(set(store.names(PREFIX)))
    except OSError as error:
        raise Unavailable(f"The erasure ledger cannot be read: {words(error)}.") from None
    with ThreadPoolExecutor(AT_ONCE, "ledger") as executor:
        for name, found in zip(names, executor.map(lambda name: _read(store, name), names), strict=True):
            if isinstance(found, Tombstone):
                reading.tombstones[found.erasure] = found
            else:
                reading.illegible[name] = found
    return reading


def _read(store: Store, name: str) -> Tombstone | str:
    """The tombstone of that name, or what is wrong with the object."""
    try:
        return decode(name, store.get(name))
    except Illegible as reason:
        return str(reason)
    except ObjectMissing:
        return "is not where its name says"
    except ValueError:
        return "has a name that no tombstone can have"
    except OSError as error:
        return f"cannot be read: {words(error)}"


def holds(store: Store, erasure_id: str) -> bool:
    """Whether the ledger contains an erasure's tombstone, undamaged."""
    return isinstance(_read(store, object_name(erasure_id)), Tombstone)


# --------------------------------------------------------------------------------------------------- comparing


def without_tombstone(context: Context, reading: Reading, ledger_states: dict[str, rows.LedgerState]) -> list[str]:
    """Erasures without the tombstone that the registry says is written; asked twice, it may have been written since."""
    absent = [i for i, ledger_state in ledger_states.items() if ledger_state.ledgered and i not in reading.tombstones]
    return sorted(erasure_id for erasure_id in absent if not holds(context.ledger, erasure_id))


def differences(context: Context, reading: Reading) -> Iterator[tuple[str, str]]:
    """(subject, what is wrong) wherever the ledger and the registry disagree.

    The ledger must have been read first: then the registry knows the erasure of every tombstone that was read.
    """
    with context.registry.read() as session:
        ledger_states = rows.ledger_states(session)
        recorded = {t.erasure: t.samples for t in rows.tombstones(session, list(reading.tombstones))}
        unknown = [t for t in reading.tombstones.values() if t.erasure not in recorded]
        risen = sorted(rows.recorded(session, {sample_id for t in unknown for sample_id in t.samples}))
    for name, reason in reading.illegible.items():
        yield f"ledger object {name}", reason
    for erasure_id in without_tombstone(context, reading, ledger_states):
        yield f"erasure {erasure_id}", "has no tombstone in the ledger"
    for erasure_id, ledger_state in ledger_states.items():
        if ledger_state.completed and not ledger_state.ledgered:
            yield f"erasure {erasure_id}", "is completed, and its tombstone is not written yet"
    for tombstone in unknown:
        yield f"erasure {tombstone.erasure}", "is in the ledger, and not in the registry: see `oubli restore-check`"
    for erasure_id, sample_ids in recorded.items():
        if sample_ids != tuple(sorted(reading.tombstones[erasure_id].samples)):
            yield f"erasure {erasure_id}", "has other samples in the ledger than in the registry"
    for sample_id in risen:
        yield f"sample {sample_id}", "was erased by the ledger, and is in the registry again"

"""What a round of a drill has shown: how long until all was well again, and which requests failed meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.integration.harness import until
from tests.integration.journal import Journal
from tests.integration.load import Load

RECOVER_SECONDS = 120.0
Requests = tuple[Counter[str], Counter[tuple[str, str]]]


@dataclass(frozen=True)
class Round:
    """One fault, once. Times are monotonic; `seconds` until the first success after it was over, by kind."""

    fault: str
    number: int
    began: float
    healed: float
    ended: float
    seconds: Mapping[str, float]
    requests: int
    failures: Mapping[str, int]

    @staticmethod
    def of(
        fault: str,
        number: int,
        load: Load,
        *,
        before: Requests,
        began: float,
        healed: float,
        seconds: Mapping[str, float],
    ) -> Round:
        tried, failed = load.requests()
        failures = failed - before[1]
        return Round(
            fault,
            number,
            began,
            healed,
            time.monotonic(),
            seconds,
            (tried - before[0]).total(),
            {f"{kind}: {reason}": count for (kind, reason), count in sorted(failures.items())},
        )


def recovered(load: Load, *, since: float, seed: int, fault: str) -> dict[str, float]:
    """Wait for what tells that all is well: deletions, predictions of every replica, and a completed erasure."""
    journal, replicas = load.journal, range(len(load.fleet.ports))

    def found() -> dict[str, float] | None:
        with journal.lock:
            deleted = [e for e in journal.erasures.values() if e.answered - e.seconds > since]
            predicted = {p.replica: p.ended for p in reversed(journal.predictions) if p.started > since}
        done = [load.completed[e.id] for e in deleted if e.id in load.completed]
        if not deleted or not done or set(predicted) != set(replicas):
            return None
        return {
            "delete": min(e.answered for e in deleted) - since,
            "predict": max(predicted.values()) - since,
            "training": min(done) - since,
        }

    what = f"recovery of {fault} (seed {seed}; logs: {load.fleet.folder / 'logs'})"
    well = until(found, seconds=RECOVER_SECONDS, what=what)
    assert well is not None
    return well


def as_records(
    rounds: Sequence[Round], journal: Journal, erasures: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each fault, what all of its rounds have shown."""
    records = []
    for fault in dict.fromkeys(one.fault for one in rounds):
        mine = [one for one in rounds if one.fault == fault]
        accepted = [e.id for e in journal.erasures.values() if any(r.began <= e.answered <= r.ended for r in mine)]
        completing = [_seconds(erasures[i]) for i in accepted if i in erasures and erasures[i]["completed_at"]]
        failures: Counter[str] = Counter()
        for one in mine:
            failures.update(one.failures)
        records.append(
            {
                "fault": fault,
                "rounds": len(mine),
                "requests": sum(one.requests for one in mine),
                "failures": dict(failures),
                "erasures_accepted": len(accepted),
                "erasures_completed": len(completing),
                "slowest_completion_seconds": max(completing, default=None),
                "recovery_seconds": {
                    kind: [round(one.seconds[kind], 2) for one in mine] for kind in ("delete", "predict", "training")
                },
            }
        )
    return records


def _seconds(erasure: Mapping[str, Any]) -> float:
    return (
        datetime.fromisoformat(erasure["completed_at"]) - datetime.fromisoformat(erasure["accepted_at"])
    ).total_seconds()


def as_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/explanation/reliability.md; recoveries are the slowest of all rounds."""
    head = (
        "| fault | rounds | requests, of them failed at first | erasures accepted, lost | slowest completion "
        "| recovery: DELETE / predict / training |\n|---|---|---|---|---|---|"
    )
    rows = []
    for record in records:
        worst = " / ".join(f"{max(seconds):.1f} s" for seconds in record["recovery_seconds"].values())
        accepted, slowest = record["erasures_accepted"], record["slowest_completion_seconds"]
        rows.append(
            f"| {record['fault']} | {record['rounds']} | {record['requests']:,}, {sum(record['failures'].values()):,} "
            f"| {accepted}, {accepted - record['erasures_completed']} | {slowest or 0:.1f} s | {worst} |"
        )
    return "\n".join([head, *rows])

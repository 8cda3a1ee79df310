"""Rows to try the repositories on: the least that a registry accepts."""

from datetime import timedelta

from uuid6 import uuid7

from service.clock import system_clock
from service.registry import clusters, leases, prompts, samples
from service.registry.engine import Registry, WriteSession
from service.registry.leases import Claim
from service.registry.records import Prompt, Sample

NOW = system_clock()
LEASE = timedelta(seconds=20)
PATIENCE = timedelta(seconds=30)


def make_cluster(session: WriteSession, *, lo: int = 0, key: str | None = "a" * 64) -> str:
    """A cluster that waits to be trained."""
    cluster = clusters.create(session, lo=lo, hi=lo + 100, now=NOW)
    if key is not None:
        clusters.plan(session, cluster, key, through=0)
    return cluster


def make_sample(
    session: WriteSession, cluster: str, *, owner: str = "ann", label: str = "cat", position: int = 0
) -> str:
    sample = Sample(str(uuid7()), owner, label, "d" * 64, cluster, NOW, position)
    samples.insert_all(session, [sample], samples.ensure_owners(session, [owner]), kind="")
    return sample.id


def claim(registry: Registry, worker: str = "worker", *, after: float = 0.0) -> Claim | None:
    with registry.write() as session:
        now = NOW + timedelta(seconds=after)
        return leases.claim(session, worker=worker, now=now, lease=LEASE, patience=PATIENCE)


def make_prompt(session: WriteSession, key: str, member_ids: list[str]) -> None:
    record = Prompt(key, prompts.unpublished_name(str(uuid7())), "d" * 64, ("cat",), len(member_ids), 0, 0.0, NOW, 1)
    prompts.insert(session, record, member_ids=member_ids)

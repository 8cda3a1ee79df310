"""Replicas of the closed-form tier beside a world, and what is to be seen of them."""

from service.core.audit import Finding, Scope, audit
from service.registry import replicas, samples
from service.registry.records import Replica, Sample
from service.serving.closed_form import ClosedFormTier
from tests.world import World


def start(world: World, name: str = "one") -> ClosedFormTier:
    """A replica that has begun and said so."""
    tier = ClosedFormTier(world.context, name=name)
    assert tier.start() is not None
    tier.report()
    return tier


def digest(tier: ClosedFormTier) -> str | None:
    """None while it is lost."""
    summary = tier.summary()
    return summary.digest if summary is not None else None


def known(tier: ClosedFormTier) -> tuple[str, int] | None:
    """(digest, samples) of it; None while it is lost."""
    summary = tier.summary()
    return (summary.digest, summary.samples) if summary is not None else None


def is_right(world: World, tier: ClosedFormTier) -> bool:
    return known(tier) == (world.closed_form_digest(), len(world.survivors))


def first(world: World) -> Sample:
    return next(iter(world.survivors.values()))


def erase_first(world: World) -> Sample:
    victim = first(world)
    world.erase(victim.id)
    return victim


def is_stored(world: World, sample: Sample) -> bool:
    return samples.object_name(sample.id) in world.objects()


def fall_silent(world: World) -> None:
    """So much time passes that a silent process counts as dead."""
    world.time.advance(world.context.settings.worker.fresh.total_seconds() + 1)


def work(world: World) -> None:
    """All that can be done at this moment."""
    for _ in range(20):
        if not world.reconcile():
            return
        while world.train():
            pass
    raise AssertionError("There is always more to do.")


def live_replicas(world: World) -> dict[str, Replica]:
    """Replicas on record."""
    with world.context.registry.read() as session:
        return {replica.name: replica for replica in replicas.every(session)}


def findings(world: World) -> list[Finding]:
    """What an audit says of replicas."""
    return [found for found in audit(world.context, Scope()) if found.subject.startswith("replica")]

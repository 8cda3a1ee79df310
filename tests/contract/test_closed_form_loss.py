"""A closed-form tier that cannot go on: it is silent, holds nothing up, and is right once it has started again."""

import errno
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
import safetensors.numpy

from models import closed_form
from service.core import sample_file
from service.core.audit import Scope, audit
from service.core.redescribe import Redescriber
from service.registry import descriptions, samples
from service.registry.records import Sample
from service.serving import closed_form as tier_module
from service.serving import descriptor_files
from service.serving.closed_form import ClosedFormTier
from service.serving.closed_form_updater import ClosedFormUpdater
from service.serving.engine import Answer, Engine, Query
from tests.replicas import erase_first, findings, first, is_right, known, live_replicas, start
from tests.world import World


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows eight samples of two labels; nothing is trained."""
    world.add(8)
    return start(world)


def store_as_earlier_release(world: World, sample: Sample) -> None:
    """A file of the first releases, without a descriptor, and a row that says nothing of one."""
    name = samples.object_name(sample.id)
    contents = sample_file.decode(world.context.store.get(name), digest=sample.digest)
    world.context.store.put(name, safetensors.numpy.save({"pixels": contents.pixels, "embedding": contents.embedding}))
    with world.context.registry.write() as session:
        descriptions.note(session, [sample.id], None)


def store_descriptor(world: World, sample: Sample, descriptor: object) -> None:
    """Whole and with the right checksum, but not what the backbone says."""
    name = samples.object_name(sample.id)
    contents = sample_file.decode(world.context.store.get(name), digest=sample.digest)
    kind = world.context.backbone.kind.name
    data = sample_file.encode(contents.pixels, contents.embedding, np.asarray(descriptor, dtype=np.int16), kind=kind)
    world.context.store.put(name, data)


def make_unreadable(world: World, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    get = world.context.store.get

    def failing(name: str) -> bytes:
        if name == samples.object_name(sample.id):
            raise OSError(errno.EIO, "Input/output error")
        return get(name)

    monkeypatch.setattr(world.context.store, "get", failing)


def cut(world: World, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    name = samples.object_name(sample.id)
    world.context.store.put(name, world.context.store.get(name)[:-1])


def take_away(world: World, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    world.context.store.delete(samples.object_name(sample.id))


def make_absurd(world: World, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    store_descriptor(world, sample, np.ones(world.context.backbone.descriptor_width))


def make_narrow(world: World, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    store_descriptor(world, sample, np.ones(1))


Damage = Callable[[World, Sample, pytest.MonkeyPatch], None]
damages = pytest.mark.parametrize("damage", [take_away, cut, make_unreadable, make_absurd, make_narrow])


# ----------------------------------------------------------------------------------------------------- lost and rebuilt


@damages
def test_whoever_cannot_be_subtracted_leads_to_a_new_start(
    world: World, tier: ClosedFormTier, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = first(world)
    damage(world, victim, monkeypatch)
    world.erase(victim.id)
    assert tier.current() is None
    assert live_replicas(world) == {}  # and no erasure waits for it
    tier.keep()
    assert is_right(world, tier)


@damages
def test_a_survivor_who_cannot_be_read_silences_a_start_until_he_has_gone(
    world: World, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(8)
    victim = first(world)
    damage(world, victim, monkeypatch)
    tier = ClosedFormTier(world.context, name="one")
    tier.keep()
    assert tier.current() is None
    assert live_replicas(world) == {}
    world.erase(victim.id)
    tier.keep()
    assert is_right(world, tier)


@damages
def test_a_newcomer_who_cannot_be_read_does_no_harm(
    world: World, tier: ClosedFormTier, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_files, "CHUNK", 1)
    *_, last = world.add(3)
    damage(world, last, monkeypatch)
    assert tier.catch_up() is None
    world.erase(last.id)
    tier.keep()
    assert is_right(world, tier)


def test_while_a_damaged_survivor_silences_it_prompts_answer(idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = first(idle)
    cut(idle, victim, monkeypatch)
    tier = ClosedFormTier(idle.context, name="one")
    tier.keep()
    engine = Engine(idle.context, tier)
    picture = idle.new_sample()
    asked = Query(idle.context.backbone.preprocessing.resize(picture.pixels), picture.digest)
    (answer,) = engine.run([asked])
    assert isinstance(answer, Answer)
    assert (answer.tier, answer.degraded) == ("prompt", False)
    idle.erase(victim.id)
    tier.keep()
    (answer,) = engine.run([asked])
    assert isinstance(answer, Answer)
    assert answer.tier in ("fused", "closed_form")
    assert is_right(idle, tier)


@damages
def test_an_audit_names_a_sample_that_silences_it(
    world: World, tier: ClosedFormTier, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = first(world)
    damage(world, victim, monkeypatch)
    found = list(audit(world.context, Scope()))
    assert f"sample {victim.id}" in {finding.subject for finding in found}
    assert [finding.comparable for finding in found if finding.subject == "replica one"] == [False]


def test_a_failed_start_is_not_repeated_at_every_beat(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(world, first(world), monkeypatch)
    tier.leave()
    tier.keep()
    begun: list[bool] = []
    monkeypatch.setattr(tier, "start", lambda: begun.append(True))
    tier.keep()
    assert begun == []
    monkeypatch.setattr(tier_module, "PATIENCE", timedelta(0))
    tier.keep()
    assert begun == [True]


def test_more_samples_than_can_be_summed_exactly_silence_it(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_form, "MOST_SAMPLES", 10)
    world.add(1)
    assert is_right(world, tier)
    world.add(1)
    tier.keep()
    assert tier.current() is None
    erase_first(world)
    tier.keep()
    assert is_right(world, tier)


def test_a_tier_is_without_samples_of_an_earlier_release_until_they_are_described_anew(world: World) -> None:
    world.add(8)
    old, *others = world.survivors.values()
    store_as_earlier_release(world, old)
    tier = ClosedFormTier(world.context, name="one")
    tier.keep()
    assert (known(tier) or ("", 0))[1] == 7
    world.erase(others[0].id)
    assert Redescriber(world.context).portion() == 1
    assert is_right(world, tier)
    world.erase(old.id)
    assert is_right(world, tier)  # subtracted, not started again: what it had in is what the file says
    assert len(live_replicas(world)) == 1


def test_a_file_that_is_not_of_the_kind_on_record_is_found_and_described_anew(world: World) -> None:
    """As after a restore of older files: the row says what the file does not hold."""
    world.add(8)
    old = first(world)
    store_as_earlier_release(world, old)
    with world.context.registry.write() as session:
        descriptions.note(session, [old.id], world.context.backbone.kind.name)
    assert f"sample {old.id}" in {found.subject for found in audit(world.context, Scope())}
    tier = ClosedFormTier(world.context, name="one")
    tier.keep()
    assert tier.current() is None
    assert Redescriber(world.context).portion() == 1
    assert tier.start() is not None
    assert is_right(world, tier)


def test_two_that_start_it_at_once_leave_it_on_record_with_what_it_has(world: World, tier: ClosedFormTier) -> None:
    """Its heart and the reconciler both keep it: the second may come when the first has just done everything."""
    tier.start()
    tier.report()
    assert live_replicas(world)["one"].digest == world.closed_form_digest()
    assert findings(world) == []


def test_a_heart_goes_on_beating_whatever_happens(world: World, tier: ClosedFormTier) -> None:
    failures, beaten = [OSError("away"), ValueError("broken")], []

    class Failing(ClosedFormTier):
        def keep(self) -> None:
            if failures:
                raise failures.pop()
            beaten.append(True)

    updater = ClosedFormUpdater(Failing(world.context, name="two"), 0.001)
    updater.start()
    while not beaten:
        pass
    updater.stop()
    assert failures == []

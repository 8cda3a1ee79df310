"""Adapted descriptors: computed by workers, portion by portion; destroyed with their sample, or with the adapter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.artifacts import StoreUnavailable
from service.core import adapted_describer, adapting, tidy
from service.core.adapted_describer import AdaptedDescriber
from service.core.audit import Scope, audit
from service.registry import adapted
from service.registry.records import Prompt, Role
from tests.world import DyingStore, Killed, MakeWorld, World, sqlite_only

CORE: Role = "core"


def in_force(world: World) -> Prompt:
    with world.context.registry.read() as session:
        found = adapted.in_force(session)
    assert found is not None
    return found


def publication(world: World) -> str:
    return adapted.publication_of(in_force(world).object_name)


def stored(world: World) -> set[str]:
    return {name for name in world.objects() if name.startswith("adapted/")}


def waiting(world: World) -> int:
    with world.context.registry.read() as session:
        return len(adapted.missing(session, publication(world)))


def findings(world: World, scope: Scope | None = None) -> list[str]:
    return [f"{found.subject} {found.reason}" for found in audit(world.context, scope or Scope())]


def give(world: World, core: int = 6, private: int = 10) -> None:
    """A core and others, all trained, nothing described."""
    world.add(core, "museum", CORE)
    world.add(private)
    world.add(2, "eve", "evaluation")
    while world.reconcile():
        while world.train():
            pass


@pytest.fixture
def adapting_world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """Six core samples and ten others, whose adapter has described none yet; portions of four."""
    monkeypatch.setattr(adapted_describer, "PORTION", 4)
    world = make_world(partition={"cap": 40, "min": 8}, training={"epochs": 4})
    give(world)
    return world


def test_every_sample_that_is_learned_from_is_described_as_the_adapter_sees_it(adapting_world: World) -> None:
    world = adapting_world
    assert stored(world) == set()
    assert world.describe_adapted() == 16
    world.settle()
    world.check()
    values = adapting.read(world.context, in_force(world))
    for sample in world.survivors.values():
        data = world.context.store.get(adapted.object_name(publication(world), sample.id))
        (wanted,) = adapting.describe(world.context, values, [world.pixels[sample.digest]])
        assert np.array_equal(adapting.decode(data, width=adapting.width(world.context)), wanted)
    assert findings(world, Scope(embeddings=True)) == []


@sqlite_only
def test_no_descriptor_of_a_sample_depends_on_its_portion(adapting_world: World) -> None:
    world = adapting_world
    values = adapting.read(world.context, in_force(world))
    pixels = [world.pixels[sample.digest] for sample in world.survivors.values()]
    together = adapting.describe(world.context, values, pixels)
    alone = [adapting.describe(world.context, values, [one])[0] for one in pixels]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("moment", ["put_many", "commit"])
def test_a_worker_that_is_killed_loses_a_portion(
    adapting_world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    world = adapting_world
    assert AdaptedDescriber(world.context).portion() == 4

    def die(*_given: object, **_more: object) -> None:
        raise Killed(moment)

    with monkeypatch.context() as patch:
        if moment == "put_many":
            store = DyingStore(world.context.store)
            patch.setattr(store, "put_many", die, raising=False)
            doomed = AdaptedDescriber(replace(world.context, store=store))
        else:
            patch.setattr(adapted, "note", die)
            doomed = AdaptedDescriber(world.context)
        with pytest.raises(Killed):
            doomed.portion()
    assert waiting(world) == 12
    assert len(stored(world)) == (4 if moment == "put_many" else 8)
    world.erase(next(iter(world.survivors)))
    world.settle()
    world.check()


def test_two_workers_at_once_describe_each_sample_once(adapting_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = adapting_world
    monkeypatch.setattr(adapted_describer, "PORTION", 16)
    one, other = AdaptedDescriber(world.context), AdaptedDescriber(world.context)
    describe, counts = adapting.describe, []

    def overtaken(*given: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(adapting, "describe", describe)
            counts.append(other.portion())
        return describe(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(adapting, "describe", overtaken)
    counts.append(one.portion())
    assert counts == [16, 0]
    with world.context.registry.read() as session:
        assert adapted.marks(session).additions == 1 + 16  # its publication, and each sample once


def test_a_sample_that_is_erased_while_it_is_described_leaves_nothing(
    adapting_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = adapting_world
    victim = next(one.id for one in world.survivors.values() if one.role != CORE)
    describe, monkeypatched = adapting.describe, []

    def erased_meanwhile(*given: object) -> object:
        if not monkeypatched:
            monkeypatched.append(world.erase(victim))
        return describe(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(adapted_describer, "PORTION", 16)
    monkeypatch.setattr(adapting, "describe", erased_meanwhile)
    assert AdaptedDescriber(world.context).portion() == 15
    world.settle()
    world.check()


def test_an_adapter_that_is_withdrawn_while_it_describes_leaves_nothing(
    adapting_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = adapting_world
    victim = next(one.id for one in world.survivors.values() if one.role == CORE)
    before, describe, done = publication(world), adapting.describe, []

    def withdrawn_meanwhile(*given: object) -> object:
        if not done:
            done.append(world.erase(victim))
        return describe(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(adapting, "describe", withdrawn_meanwhile)
    assert AdaptedDescriber(world.context).portion() == 0
    assert stored(world) == set()
    world.settle()
    world.check()
    assert publication(world) != before


def test_an_erasure_destroys_the_samples_descriptor_and_no_other(adapting_world: World) -> None:
    world = adapting_world
    world.settle()
    victim = next(one.id for one in world.survivors.values() if one.role != CORE)
    name = adapted.object_name(publication(world), victim)
    before = stored(world)
    accepted = world.erase(victim)
    world.reconcile()
    assert world.erasure(accepted.id).state == "completed"
    assert stored(world) == before - {name}
    world.settle()
    assert findings(world) == []


def test_the_erasure_of_a_core_sample_destroys_all_descriptors_before_it_is_completed(adapting_world: World) -> None:
    world = adapting_world
    world.settle()
    old, store = stored(world), world.context.store
    accepted = world.erase(next(one.id for one in world.survivors.values() if one.role == CORE))

    class Stuck(DyingStore):
        """Cannot delete one of them."""

        def delete(self, name: str) -> None:
            if name == min(old):
                raise StoreUnavailable("away")
            store.delete(name)

    healthy = world.context
    world.context = replace(healthy, store=Stuck(store))
    world.reconcile()
    assert world.erasure(accepted.id).completed_at is None
    world.context = healthy
    world.reconcile()
    assert world.erasure(accepted.id).completed_at is not None
    assert not old & stored(world)
    world.settle()
    world.check()


def test_what_a_worker_left_that_was_killed_in_its_first_portion_goes_with_the_adapter(
    adapting_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = adapting_world

    def die(*_given: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(adapted, "note", die)
        with pytest.raises(Killed):
            AdaptedDescriber(world.context).portion()
    left = stored(world)
    assert left
    world.add(1, "museum", CORE)  # and a larger core replaces it
    while world.reconcile():
        while world.train():
            pass
    world.reconcile()
    assert not left & stored(world)


@sqlite_only
def test_what_a_killed_worker_left_of_a_sample_or_an_adapter_is_destroyed(adapting_world: World) -> None:
    world = adapting_world
    world.settle()
    known = sorted(world.survivors)[0]
    foreign = "01a2294b-ff0d-7798-8a5e-e130343e3f4c"
    left = [adapted.object_name(foreign, known), adapted.object_name(publication(world), foreign), "adapted/odd.txt"]
    for name in left:
        world.context.store.put(name, b"something")
    assert len([one for one in findings(world) if "belongs to nothing" in one]) == 3
    tidy.tidy(world.context)
    world.check()


@sqlite_only
def test_the_audit_notices_descriptors_that_are_missing_damaged_or_other(adapting_world: World) -> None:
    world = adapting_world
    world.settle()
    one, two, three = sorted(stored(world))[:3]
    world.context.store.delete(one)
    world.file_of(two).write_bytes(world.file_of(two).read_bytes()[:-1] + b"\x01")
    other = adapting.decode(world.context.store.get(three), width=adapting.width(world.context))
    world.context.store.put(three, adapting.encode(other[::-1].copy()))
    said = findings(world, Scope(embeddings=True))
    assert sum("adapted descriptor of sample" in text for text in said) == 3
    assert len(findings(world)) == 2


@sqlite_only
def test_the_audit_says_how_many_wait(adapting_world: World) -> None:
    assert findings(adapting_world) == ["adapter waits for 16 samples to be described"]


@sqlite_only
def test_a_damaged_adapter_is_withdrawn_and_trained_again_to_the_same_bytes(adapting_world: World) -> None:
    world = adapting_world
    before = in_force(world)
    world.file_of(before.object_name).write_bytes(b"damaged")
    assert AdaptedDescriber(world.context).portion() == 0
    world.settle()
    world.check()
    again = in_force(world)
    assert (again.key, again.digest) == (before.key, before.digest)
    assert again.object_name != before.object_name


@sqlite_only
def test_a_worker_keeps_no_adapter_in_memory_once_it_does_something_else(adapting_world: World) -> None:
    describer = AdaptedDescriber(adapting_world.context)
    assert describer.work(until=lambda: waiting(adapting_world) <= 8)
    assert (waiting(adapting_world), describer._loaded) == (8, None)
    assert not describer.work(until=lambda: False)
    assert (waiting(adapting_world), describer._loaded) == (0, None)


@sqlite_only
def test_a_sample_that_cannot_be_read_delays_no_other(adapting_world: World) -> None:
    world = adapting_world
    victim = next(iter(world.survivors))
    world.file_of(f"samples/{victim}.safetensors").write_bytes(b"damaged")
    assert world.describe_adapted() == 15
    assert waiting(world) == 1

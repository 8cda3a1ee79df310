"""Samples that a layout is fitted on: once erased they have no say in it, and nothing of them is left in its file."""

from typing import Any

import pytest

from service.artifacts import ObjectMissing
from service.core import erasure, layouts, reconcile
from service.core.audit import Scope, audit
from service.core.tidy import UNRECORDED_KEPT, destroy_unrecorded
from service.errors import Unavailable
from service.registry import destructions
from service.serving.engine import Answer, Engine
from tests.layouts import KINDS, anchors, no_anchor, predict, record
from tests.world import MakeWorld, World, accepted


def keys(world: World) -> set[str]:
    return {cluster.serving_key or "" for cluster in world.clusters()}


# --------------------------------------------------------------------------------------------------------- who they are


def test_one_cluster_until_there_are_enough_for_anchors(make_world: MakeWorld) -> None:
    world = make_world(partition=KINDS["anchors"])
    world.add(15)
    world.settle()
    world.check()
    assert (len(world.clusters()), record(world).object) == (1, None)
    world.add(1)
    world.settle()
    world.check()
    assert len(world.clusters()) > 1


def test_the_window_doubles_and_shrinks_with_the_survivors(make_world: MakeWorld) -> None:
    world = make_world(partition={"kind": "anchors", "anchors": 8, "clusters": 3})
    seen = []
    for _ in range(3):
        world.add(8)
        world.settle()
        world.check()
        seen.append(record(world).digest)
    world.add(8)
    world.settle()
    assert record(world).digest != seen[2]  # from 16 to 32 of 32
    assert seen[1] == seen[2]  # 16 of 16, 16 of 24
    world.erase(next(reversed(world.survivors)))
    world.settle()
    world.check()
    assert record(world).digest == seen[1]


# ---------------------------------------------------------------------------------------------------------- erasing one


def test_erasing_an_anchor_fits_anew_and_its_features_are_gone_when_that_is_completed(anchored: World) -> None:
    old = record(anchored)
    erased = anchored.survivors[anchors(anchored)[0]]
    vector = anchored.vectors[erased.digest].tobytes()
    assert anchored.found_in_files(vector)
    found = anchored.erase(erased.id)
    assert erased.id not in anchors(anchored)
    assert record(anchored).kept == tuple(range(1, 16))
    reconcile.reconcile(anchored.context, refit=False)
    assert anchored.erasure(found.id).state == "withdrawn"
    # At once, by what is owed: ten minutes later it would go as an object that nobody knows.
    before = anchored.time()
    while record(anchored).object == old.object:
        assert anchored.reconcile()
    anchored.reconcile()
    assert anchored.time() == before
    assert old.object not in anchored.objects()
    anchored.settle()
    anchored.check()
    assert anchored.erasure(found.id).state == "completed"
    assert record(anchored).digest != old.digest
    assert anchored.found_in_files(vector) == []


def test_a_layout_is_owed_to_destruction_by_the_transaction_that_replaces_it(anchored: World) -> None:
    old, context = record(anchored).object, anchored.context
    with context.registry.write(exclusive=True) as session:
        assert old not in destructions.pending(session)
        layouts.put_in_force(context, session, "another", layouts.public(context))
        assert old in destructions.pending(session)
        session.rollback()


def test_erasing_another_than_an_anchor_beyond_the_window_moves_nobody(anchored: World) -> None:
    old, served = record(anchored), keys(anchored)
    anchored.erase(no_anchor(anchored))
    anchored.settle()
    anchored.check()
    assert record(anchored) == old
    assert len(keys(anchored) - served) == 1


def test_no_answer_is_routed_by_an_anchor_that_has_gone(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the prompt that answers goes on being served."""
    engine = Engine(anchored.context)
    new_sample = anchored.new_sample()
    own = predict(anchored, engine, new_sample).cluster
    clusters = {sample.id: sample.cluster for sample in anchored.samples()}
    elsewhere = next(anchor for anchor in anchors(anchored) if clusters[anchor] != own)
    layouts_used = []
    route = Engine._route

    def routed(self: Engine, now: Any, *asked: Any) -> Any:
        if not layouts_used:
            anchored.erase(elsewhere)
        layouts_used.append(now.snapshot.layout.points)
        return route(self, now, *asked)

    monkeypatch.setattr(Engine, "_route", routed)
    assert isinstance(predict(anchored, engine, new_sample), Answer)
    assert layouts_used == [16, 15]


def test_nobody_is_recorded_where_an_anchor_put_them_that_has_gone_meanwhile(
    anchored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, chosen, used = layouts.in_force, anchors(anchored)[0], []

    def in_force(context: Any) -> Any:
        found = find(context)
        used.append(found[1].points)
        if len(used) == 1:
            anchored.erase(chosen)
        return found

    monkeypatch.setattr("service.core.intake.layouts.in_force", in_force)
    anchored.add(1)
    assert used == [16, 15]


@pytest.mark.parametrize("copies", ["after", "before"])
def test_a_copy_that_takes_the_place_of_an_erased_anchor_is_an_anchor_itself(
    make_world: MakeWorld, copies: str
) -> None:
    world = make_world(partition={"kind": "anchors", "anchors": 4, "clusters": 3})
    new_samples = world.new_samples(4)
    samples = [accepted(result) for result in world.take_in(new_samples)]
    if copies == "before":
        world.take_in([new_samples[1]])
    world.settle()
    old = record(world)
    world.erase(samples[1].id)
    if copies == "after":
        world.take_in([new_samples[1]])
    assert record(world).digest != old.digest
    world.settle()
    world.check()
    assert record(world).digest == old.digest
    assert record(world).object != old.object
    assert set(anchors(world)) == set(world.survivors)
    assert list(audit(world.context, Scope())) == []


def test_a_quote_that_would_fit_anew_is_an_upper_bound(anchored: World) -> None:
    chosen, beyond = anchors(anchored)[0], no_anchor(anchored)
    everything = erasure.quote(anchored.context, sample_ids=[chosen])
    assert everything.sample_epochs == everything.full_sample_epochs == 39
    assert erasure.quote(anchored.context, sample_ids=[beyond]).sample_epochs < 39


def test_an_erasure_waits_for_an_object_that_another_one_owes(anchored: World) -> None:
    """Both were anchors: the layout that knows them is withdrawn once, and both wait until it is destroyed."""
    first, second = anchored.erase(anchors(anchored)[0]), anchored.erase(anchors(anchored)[0])
    old = record(anchored).object
    store = anchored.context.store
    delete = type(store).delete

    def refuse(self: Any, name: str) -> None:
        if name == old:
            raise PermissionError(13, "not allowed")
        delete(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "delete", refuse)
        for _ in range(8):
            anchored.reconcile()
            while anchored.train():
                pass
        assert {anchored.erasure(e.id).state for e in (first, second)} == {"failed"}
    anchored.settle()
    anchored.check()


# ------------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_layout_is_made_again_and_nothing_is_trained_for_it(anchored: World, damage: str) -> None:
    served = keys(anchored)
    name = record(anchored).object or ""
    path = anchored.file_of(name)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:  # the last byte belongs to the last anchor's features
        path.write_bytes(data[:-1] + (b"" if damage == "cut" else bytes([data[-1] ^ 1])))
    (finding,) = audit(anchored.context, Scope())
    assert finding.subject == f"object {name}"
    anchored.restart()  # a process that has not read it yet
    assert isinstance(predict(anchored, Engine(anchored.context)), Unavailable)
    anchored.add(1)  # nobody is turned away meanwhile
    erased = no_anchor(anchored)
    anchored.erase(erased)
    anchored.settle()
    anchored.check()
    assert record(anchored).object != name
    assert keys(anchored) & served
    assert isinstance(predict(anchored, Engine(anchored.context)), Answer)


def test_a_layout_left_by_a_killed_process_is_destroyed(anchored: World) -> None:
    stray = "layouts/01890000-0000-7000-8000-000000000000.safetensors"
    anchored.context.store.put(stray, b"left behind")
    assert destroy_unrecorded(anchored.context, older_than=UNRECORDED_KEPT) == 1
    with pytest.raises(ObjectMissing):
        anchored.context.store.get(stray)
    anchored.check()

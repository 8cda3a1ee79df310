"""Every partition is exact under deletion, and a move from one layout to another is seen whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from service.artifacts import ObjectMissing
from service.core import erasure, layouts, move, reconcile, replan
from service.core.audit import Scope, audit
from service.core.intake import Newcomer, destroy_unrecorded, take_in
from service.errors import Unavailable
from service.registry import layouts as layout_rows
from service.registry.records import LayoutInForce, Sample
from service.registry.tables import PromptMemberRow
from service.serving.engine import Answer, Engine, Query
from tests.world import Killed, MakeWorld, World, accepted, opened

KINDS: dict[str, dict[str, Any]] = {
    "tree": {"cap": 12, "min": 4},
    "anchors": {"kind": "anchors", "anchors": 16, "clusters": 4},
    "anchors by distance": {"kind": "anchors", "anchors": 8, "distance_threshold": 0.6},
    "random": {"kind": "random", "clusters": 4},
    "pinned": {},
}


@pytest.fixture
def partition(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Settings of a kind; `pinned` gets a file of public centroids."""

    def chosen(kind: str) -> dict[str, Any]:
        if kind != "pinned":
            return KINDS[kind]
        with opened(tmp_path / "public") as public:
            vectors = [newcomer.embedding for newcomer in public.newcomers(5)]
        np.save(tmp_path / "centroids.npy", np.stack(vectors))
        return {"kind": "pinned", "centroids": tmp_path / "centroids.npy"}

    return chosen


@pytest.fixture
def anchored(make_world: MakeWorld) -> World:
    """Forty samples, divided by sixteen of the first thirty-two, everything trained."""
    world = make_world(partition=KINDS["anchors"])
    world.add(40)
    world.settle()
    assert len(anchors(world)) == 16
    return world


def record(world: World) -> LayoutInForce:
    with world.context.registry.read() as session:
        return layout_rows.current(session)


def anchors(world: World) -> list[str]:
    """Ids of the samples that the layout was fitted on."""
    with world.context.registry.read() as session:
        return [sample_id for _, sample_id in layout_rows.anchors(session)]


def no_anchor(world: World) -> str:
    """A sample beyond the window."""
    return next(sample_id for sample_id in reversed(world.held) if sample_id not in anchors(world))


def keys(world: World) -> set[str]:
    return {cluster.serving_key or "" for cluster in world.clusters()}


def predict(world: World, engine: Engine, newcomer: Newcomer | None = None) -> Any:
    newcomer = newcomer or world.newcomer()
    resized = world.context.backbone.preprocessing.resize(newcomer.picture.pixels)
    (answer,) = engine.predict([Query(resized, newcomer.picture.digest)])
    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_what_the_survivors_alone_would_have_made(
    make_world: MakeWorld, partition: Callable[[str], dict[str, Any]], kind: str
) -> None:
    world = make_world(partition=partition(kind))
    world.add(30)
    world.add(6, owner="bob")
    world.settle()
    world.check()
    assert len(world.clusters()) > 1
    for sample_id in list(world.held)[:12:3]:
        world.erase(sample_id)
    world.settle()
    world.erase_owner("bob")
    world.add(3)
    world.settle()
    world.check()
    assert list(audit(world.context, Scope(embeddings=True, rebuild_all=True))) == []
    world.erase(*world.held)
    world.settle()
    world.check()
    assert world.clusters() == []


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", ["tree", "anchors"])
def test_other_settings_on_the_same_data_are_a_move(
    make_world: MakeWorld, partition: Callable[[str], dict[str, Any]], before: str, after: str
) -> None:
    world = make_world(partition=partition(before))
    world.add(34)
    world.settle()
    world.restart(partition=partition(after))
    world.settle()
    world.check()
    world.restart(partition=partition(before))
    world.settle()
    world.check()


def test_an_api_process_leaves_the_move_to_a_worker_and_serves_the_old_layout_until_then(anchored: World) -> None:
    engine = Engine(anchored.context)
    old = record(anchored)
    anchored.restart(partition=KINDS["random"])
    engine = Engine(anchored.context)
    assert reconcile.reconcile(anchored.context, refit=False) == 1  # rings for a worker
    assert record(anchored) == old
    assert isinstance(predict(anchored, engine), Answer)
    anchored.reconcile()
    assert record(anchored).spec["kind"] == "random"
    anchored.settle()
    anchored.check()


def test_a_prompt_is_not_taken_over_by_a_cluster_that_shares_few_of_its_members(anchored: World) -> None:
    anchored.restart(partition={"kind": "random", "clusters": 8})
    anchored.reconcile()
    held = {cluster.id: cluster for cluster in anchored.clusters()}
    assert None in {cluster.serving_key for cluster in held.values()}
    for cluster_id, cluster in held.items():
        if cluster.serving_key is not None:
            with anchored.context.registry.read() as session:
                seen = set(
                    session.execute(
                        sa.select(PromptMemberRow.sample_id).where(PromptMemberRow.prompt_key == cluster.serving_key)
                    ).scalars()
                )
            members = [sample.id for sample in anchored.samples() if sample.cluster == cluster_id]
            assert 2 * len(seen & set(members)) >= len(members)


# ------------------------------------------------------------------------------------------------------ anchors


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


def test_erasing_an_anchor_fits_anew_and_its_features_are_gone_when_that_is_completed(anchored: World) -> None:
    old = record(anchored)
    erased = anchored.held[anchors(anchored)[0]]
    vector = anchored.vectors[erased.digest].tobytes()
    assert anchored.found_in_files(vector)
    found = anchored.erase(erased.id)
    assert erased.id not in anchors(anchored)
    assert record(anchored).kept == tuple(range(1, 16))
    reconcile.reconcile(anchored.context, refit=False)
    assert anchored.erasure(found.id).state == "withdrawn"
    anchored.settle()
    anchored.check()
    assert anchored.erasure(found.id).state == "completed"
    assert record(anchored).digest != old.digest
    assert anchored.found_in_files(vector) == []


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
    newcomer = anchored.newcomer()
    own = predict(anchored, engine, newcomer).cluster
    clusters = {sample.id: sample.cluster for sample in anchored.samples()}
    elsewhere = next(anchor for anchor in anchors(anchored) if clusters[anchor] != own)
    layouts_used = []
    route = Engine._route

    def routed(self: Engine, snapshot: Any, query: Query, embedding: Any) -> Any:
        if not layouts_used:
            anchored.erase(elsewhere)
        layouts_used.append(snapshot.layout.points)
        return route(self, snapshot, query, embedding)

    monkeypatch.setattr(Engine, "_route", routed)
    assert isinstance(predict(anchored, engine, newcomer), Answer)
    assert layouts_used == [16, 15]


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
    world.erase(next(reversed(world.held)))
    world.settle()
    world.check()
    assert record(world).digest == seen[1]


@pytest.mark.parametrize("copies", ["after", "before"])
def test_a_copy_that_takes_the_place_of_an_erased_anchor_is_an_anchor_itself(
    make_world: MakeWorld, copies: str
) -> None:
    world = make_world(partition={"kind": "anchors", "anchors": 4, "clusters": 3})
    newcomers = world.newcomers(4)
    samples = [accepted(result) for result in world.take_in(newcomers)]
    if copies == "before":
        world.take_in([newcomers[1]])
    world.settle()
    old = record(world)
    world.erase(samples[1].id)
    if copies == "after":
        world.take_in([newcomers[1]])
    assert record(world).digest != old.digest
    world.settle()
    world.check()
    assert record(world).digest == old.digest
    assert record(world).object != old.object
    assert set(anchors(world)) == set(world.held)
    assert list(audit(world.context, Scope())) == []


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


def test_a_quote_that_would_fit_anew_is_an_upper_bound(anchored: World) -> None:
    chosen, beyond = anchors(anchored)[0], no_anchor(anchored)
    everything = erasure.quote(anchored.context, sample_ids=[chosen])
    assert everything.sample_epochs == everything.full_sample_epochs == 39
    assert erasure.quote(anchored.context, sample_ids=[beyond]).sample_epochs < 39


# ------------------------------------------------------------------------------------------------ what goes wrong


def interrupted_move(world: World, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Do something while the next move is being prepared."""
    prepare = move.prepare

    def prepared(context: Any) -> move.Move | None:
        monkeypatch.undo()
        found = prepare(context)
        what()
        return found

    monkeypatch.setattr("service.core.move.prepare", prepared)


def test_who_comes_while_a_move_is_prepared_moves_along(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    anchored.erase(anchors(anchored)[0])
    interrupted_move(anchored, monkeypatch, lambda: anchored.add(3))
    assert replan.replan(anchored.context)
    assert len(anchors(anchored)) == 16
    anchored.settle()
    anchored.check()


def test_a_move_that_is_overtaken_by_an_erasure_is_prepared_again(
    anchored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchored.erase(anchors(anchored)[0])
    interrupted_move(anchored, monkeypatch, lambda: anchored.erase(anchors(anchored)[0]))
    before = record(anchored)
    assert replan.replan(anchored.context)
    assert record(anchored).object == before.object
    assert [name for name in anchored.objects() if name.startswith("layouts/")] == [before.object]
    anchored.settle()
    anchored.check()


def test_a_move_that_dies_has_moved_nobody(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    anchored.erase(anchors(anchored)[0])
    clusters, samples = anchored.clusters(), anchored.samples()

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(replan, "_note_erasures", die)
        with pytest.raises(Killed):
            anchored.reconcile()
    assert (anchored.clusters(), anchored.samples()) == (clusters, samples)
    anchored.settle()
    anchored.check()


def test_a_move_that_dies_while_its_layout_is_stored_leaves_no_features_behind(
    anchored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchored.erase(anchors(anchored)[0])
    put = anchored.context.store.put

    def store_and_die(name: str, data: bytes) -> None:
        put(name, data)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(anchored.context.store, "put", store_and_die)
        patch.setattr(anchored.context.store, "delete", lambda name: None)
        with pytest.raises(Killed):
            anchored.reconcile()
    (stray,) = {name for name in anchored.objects() if name.startswith("layouts/")} - {record(anchored).object}
    anchored.settle()
    anchored.check()
    assert stray not in anchored.objects()


def test_an_erasure_between_the_look_and_the_plan_is_planned_next_time(
    anchored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, left = layouts.is_in_force, [lambda: anchored.erase(anchors(anchored)[0])]

    def looked(context: Any, session: Any) -> bool:
        found = look(context, session)
        if left:
            left.pop()()
        return found

    anchored.add(1)
    with monkeypatch.context() as patch:
        patch.setattr("service.core.replan.layouts.is_in_force", looked)
        assert replan.replan(anchored.context)
    anchored.settle()
    anchored.check()


def test_a_failure_is_forgotten_once_nobody_need_move(anchored: World) -> None:
    name = f"samples/{no_anchor(anchored)}.safetensors"
    data = anchored.context.store.get(name)
    anchored.context.store.delete(name)
    anchored.restart(partition=KINDS["random"])
    anchored.reconcile()
    assert record(anchored).failure is not None
    anchored.context.store.put(name, data)
    anchored.restart(partition=KINDS["anchors"])
    anchored.settle()
    anchored.check()
    assert record(anchored).failure is None


def test_a_sample_located_by_the_old_layout_is_located_again(
    anchored: World, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, others = layouts.in_force, []

    def in_force(context: Any) -> Any:
        found = find(context)
        if not others:  # another process moves everybody, just now
            others.append(make_world(partition=KINDS["tree"]))
            others[0].reconcile()
        return found

    monkeypatch.setattr("service.core.intake.layouts.in_force", in_force)
    anchored.add(1)
    (other,) = others
    other.held, other.vectors = anchored.held, anchored.vectors
    other.settle()
    other.check()


def test_layouts_that_change_all_the_time_are_a_503(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.intake.layouts.in_force", lambda context: ("0" * 64, context.partition.fit([])))
    before = anchored.objects()
    with pytest.raises(Unavailable, match="divided anew"):
        take_in(anchored.context, anchored.newcomers(2))
    assert anchored.objects() == before


def test_a_damaged_sample_holds_the_move_up_and_says_so_until_it_is_erased(anchored: World) -> None:
    damaged = anchored.held[no_anchor(anchored)]
    path = anchored.file_of(f"samples/{damaged.id}.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    erased = anchors(anchored)[0]
    waiting = anchored.erase(erased)
    anchored.reconcile()
    failure = record(anchored).failure or ""
    assert damaged.id in failure
    assert "Restore its file from a backup, or erase the sample" in failure
    assert anchored.erasure(waiting.id).state == "failed"
    assert f"samples/{erased}.safetensors" not in anchored.objects()  # its bytes need not wait for the plan
    get, read = anchored.context.store.get, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchored.context.store, "get", lambda name: (read.append(name), get(name))[1])
        anchored.reconcile()
    assert read == [f"samples/{damaged.id}.safetensors"]  # nobody else is read before that one is whole again
    anchored.erase(damaged.id)
    anchored.settle()
    anchored.check()
    assert record(anchored).failure is None


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
    assert destroy_unrecorded(anchored.context, older_than=reconcile.UNRECORDED_KEPT) == 1
    with pytest.raises(ObjectMissing):
        anchored.context.store.get(stray)
    anchored.check()


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


def test_any_number_of_copies_of_one_picture_is_welcome_where_no_cap_is_promised(make_world: MakeWorld) -> None:
    world = make_world(partition=KINDS["random"])
    results = world.take_in([world.newcomer()] * 40)
    assert all(isinstance(result, Sample) for result in results)
    world.settle()
    world.check()
    assert [cluster.samples for cluster in world.clusters()] == [40]

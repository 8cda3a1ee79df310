"""A move from one layout to another is seen whole or not at all, whatever comes or fails meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from service.core import layouts, reconcile, relayout, replan
from service.core.intake import take_in
from service.errors import Unavailable
from service.registry.tables import PromptMemberRow
from service.serving.engine import Answer, Engine
from tests.layouts import KINDS, anchors, no_anchor, predict, record
from tests.world import Killed, MakeWorld, World


def interrupted_move(world: World, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Do something while the next move is being prepared."""
    prepare = relayout.prepare

    def prepared(context: Any) -> relayout.Relayout | None:
        monkeypatch.undo()
        found = prepare(context)
        what()
        return found

    monkeypatch.setattr("service.core.relayout.prepare", prepared)


# ------------------------------------------------------------------------------------------------- who serves meanwhile


def test_an_api_process_leaves_the_move_to_a_worker_and_serves_the_old_layout_until_then(anchored: World) -> None:
    engine = Engine(anchored.context)
    old = record(anchored)
    anchored.restart(partition=KINDS["random"])
    engine = Engine(anchored.context)
    assert reconcile.reconcile(anchored.context, refit=False) == 1  # notifies a worker
    assert record(anchored) == old
    assert isinstance(predict(anchored, engine), Answer)
    anchored.reconcile()
    assert record(anchored).spec["kind"] == "random"
    anchored.settle()
    anchored.check()


def test_a_prompt_is_not_taken_over_by_a_cluster_that_shares_few_of_its_members(anchored: World) -> None:
    anchored.restart(partition={"kind": "random", "clusters": 8})
    anchored.reconcile()
    by_id = {cluster.id: cluster for cluster in anchored.clusters()}
    assert None in {cluster.serving_key for cluster in by_id.values()}
    for cluster_id, cluster in by_id.items():
        if cluster.serving_key is not None:
            with anchored.context.registry.read() as session:
                seen = set(
                    session.execute(
                        sa.select(PromptMemberRow.sample_id).where(PromptMemberRow.prompt_key == cluster.serving_key)
                    ).scalars()
                )
            members = [sample.id for sample in anchored.samples() if sample.cluster == cluster_id]
            assert 2 * len(seen & set(members)) >= len(members)


# ----------------------------------------------------------------------------------------- who comes and goes meanwhile


def test_who_comes_while_a_move_is_prepared_moves_along(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    anchored.erase(anchors(anchored)[0])
    interrupted_move(anchored, monkeypatch, lambda: anchored.add(3))
    assert replan.replan(anchored.context)
    assert len(anchors(anchored)) == 16
    anchored.settle()
    anchored.check()


def test_a_sample_located_by_the_old_layout_is_located_again(
    anchored: World, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, others = layouts.in_force, []

    def in_force(context: Any) -> Any:
        found = find(context)
        if not others:  # another process moves all samples, just now
            others.append(make_world(partition=KINDS["tree"]))
            others[0].reconcile()
        return found

    monkeypatch.setattr("service.core.intake.layouts.in_force", in_force)
    anchored.add(1)
    (other,) = others
    other.survivors, other.vectors = anchored.survivors, anchored.vectors
    other.settle()
    other.check()


def test_layouts_that_change_all_the_time_are_a_503(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.intake.layouts.in_force", lambda context: ("0" * 64, context.partition.fit([])))
    before = anchored.objects()
    with pytest.raises(Unavailable, match="divided into new clusters"):
        take_in(anchored.context, anchored.new_samples(2))
    assert anchored.objects() == before


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


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_a_move_that_dies_has_moved_nobody(anchored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    anchored.erase(anchors(anchored)[0])
    clusters, samples = anchored.clusters(), anchored.samples()

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("service.core.replan.erasure_progress.note_plan", die)
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
    (orphan,) = {name for name in anchored.objects() if name.startswith("layouts/")} - {record(anchored).object}
    anchored.settle()
    anchored.check()
    assert orphan not in anchored.objects()


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


def test_a_damaged_sample_holds_the_move_up_and_says_so_until_it_is_erased(anchored: World) -> None:
    damaged = anchored.survivors[no_anchor(anchored)]
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
    assert read == [f"samples/{damaged.id}.safetensors"]  # no other sample is read before that one is whole again
    anchored.erase(damaged.id)
    anchored.settle()
    anchored.check()
    assert record(anchored).failure is None

"""What an erasure promises, from the accepting transaction to the last byte."""

from collections.abc import Callable

import pytest
from uuid6 import uuid7

from service.api.schemas.erasures import erasure_of
from service.core import erasure, reconcile
from service.core.erasure_progress import advance
from service.errors import NotFound
from service.registry import erasures, leases, prompts, samples, state, states
from service.registry.engine import Registry
from service.registry.records import Erasure, Sample
from service.registry.tables import ErasureClusterRow, ErasureRow
from tests.world import MakeWorld, World, sqlite_only


def epoch(world: World) -> int:
    with world.context.registry.read() as session:
        return state.epoch(session)


# ---------------------------------------------------------------------------------------------------------- accepting


def test_accepting_withdraws_every_prompt_that_has_seen_the_sample(idle: World) -> None:
    sample = next(iter(idle.survivors.values()))
    served, before = idle.cluster_of(sample), epoch(idle)
    found = idle.erase(sample.id)
    (affected,) = found.clusters
    assert (affected.cluster, affected.prompt_before, affected.state) == (served.id, served.serving_key, "withdrawn")
    assert (found.state, found.accepted_at, found.withdrawn_at) == ("withdrawn", idle.time.now, idle.time.now)
    assert (found.due_at - found.accepted_at).days == 30
    assert served.serving_key not in idle.serving_keys()
    assert epoch(idle) > before
    with idle.context.registry.read() as session:
        assert prompts.get(session, [served.serving_key or ""]) == {}
        assert samples.get(session, sample.id) is None


def test_other_clusters_go_on_as_if_nothing_had_happened(idle: World) -> None:
    sample = next(iter(idle.survivors.values()))
    own = idle.cluster_of(sample).id
    before = {cluster.id: cluster.serving_key for cluster in idle.clusters() if cluster.id != own}
    idle.erase(sample.id)
    idle.settle()
    idle.check()
    after = {cluster.id: cluster.serving_key for cluster in idle.clusters()}
    unchanged = [cluster for cluster, key in before.items() if after.get(cluster) == key]
    assert len(unchanged) >= len(before) - 1  # a merge takes one neighbour in


def test_after_a_split_a_prompt_is_withdrawn_from_all_who_inherited_it(world: World) -> None:
    world.add(12)
    world.settle()
    (whole,) = world.clusters()
    world.add(8)
    world.reconcile()
    successors = world.clusters()
    assert len(successors) > 1
    assert {cluster.serving_key for cluster in successors} == {whole.serving_key}
    found = world.erase(next(iter(world.survivors)))
    assert world.serving_keys() == []
    assert {affected.cluster for affected in found.clusters} == {cluster.id for cluster in successors}
    world.settle()
    world.check()


def test_an_owner_is_forgotten_as_a_whole(idle: World) -> None:
    idle.add(5, owner="bob")
    found = idle.erase_owner("bob")
    assert (found.owner, found.samples) == ("bob", 5)
    assert {sample.owner for sample in idle.samples()} == {"ann"}
    idle.settle()
    idle.check()
    with pytest.raises(NotFound, match="no samples"):
        idle.erase_owner("bob")


def test_several_samples_are_forgotten_by_one_erasure(idle: World) -> None:
    ids = list(idle.survivors)[::3]
    found = idle.erase(*ids, ids[0])
    assert found.samples == len(ids)
    idle.settle()
    idle.check()


def test_samples_are_erased_all_or_none(idle: World) -> None:
    stranger = str(uuid7())
    with pytest.raises(NotFound, match=f"No such samples: {stranger}. Nothing has been erased"):
        erasure.erase_samples(idle.context, [*idle.survivors, stranger])
    with pytest.raises(NotFound, match="and 2 more"):
        erasure.erase_samples(idle.context, [str(uuid7()) for _ in range(12)])
    with pytest.raises(NotFound, match="No samples are named"):
        erasure.erase_samples(idle.context, [])
    assert idle.erasures() == []
    idle.check()


def test_erasing_again_is_answered_with_the_same_erasure_until_it_is_completed(idle: World) -> None:
    sample = next(iter(idle.survivors))
    first = idle.erase(sample)
    assert idle.erase(sample).id == first.id
    reconcile.replan(idle.context)
    assert idle.erase(sample).id == first.id
    idle.reconcile()
    with pytest.raises(NotFound, match=sample):
        idle.erase(sample)
    assert len(idle.erasures()) == 1


def test_erasing_an_owner_again_is_answered_with_the_same_erasure(idle: World) -> None:
    assert idle.erase_owner("ann").id == idle.erase_owner("ann").id


def test_unknown_samples_and_owners_are_not_found(idle: World) -> None:
    with pytest.raises(NotFound):
        idle.erase(str(uuid7()))
    with pytest.raises(NotFound):
        idle.erase_owner("nobody")


def test_erasing_everything_leaves_nothing_at_all(idle: World) -> None:
    found = idle.erase_owner("ann")
    idle.settle()
    idle.check()
    assert idle.clusters() == []
    assert idle.objects() == set()
    assert {affected.state for affected in idle.erasure(found.id).clusters} == {states.REMOVED}
    idle.add(5)
    idle.settle()
    idle.check()


# ----------------------------------------------------------------------------------------------------- seeing through


def test_an_erasure_is_completed_when_bytes_are_gone_and_restored_when_a_prompt_without_it_serves(
    idle: World,
) -> None:
    sample = next(iter(idle.survivors.values()))
    artifact = _artifact(idle, sample)
    found = idle.erase(sample.id)
    reconcile.replan(idle.context)
    advance(idle.context)
    assert idle.erasure(found.id).state == "withdrawn"
    assert {artifact, samples.object_name(sample.id)} <= idle.objects()
    idle.time.advance(3)
    idle.reconcile()
    assert not {artifact, samples.object_name(sample.id)} & idle.objects()
    completed = idle.erasure(found.id)
    assert (completed.state, completed.completed_at, completed.restored_at) == ("completed", idle.time.now, None)
    assert {affected.state for affected in completed.clusters} == {states.RETRAINING}
    idle.time.advance(7)
    while idle.train():
        pass
    assert idle.erasure(found.id).restored_at is None
    idle.reconcile()
    restored = idle.erasure(found.id)
    assert (restored.state, restored.completed_at) == ("completed", completed.completed_at)
    assert restored.restored_at == idle.time.now
    for affected in restored.clusters:
        assert affected.state == states.RESTORED
        assert affected.prompt_after in idle.serving_keys()
        assert affected.prompt_after != affected.prompt_before
    idle.check()


def _artifact(world: World, sample: Sample) -> str:
    """The object that the prompt of this sample's cluster is in."""
    key = world.cluster_of(sample).serving_key or ""
    with world.context.registry.read() as session:
        return prompts.get(session, [key])[key].object_name


def test_an_erasure_does_not_complete_while_its_object_cannot_be_destroyed(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again on every pass, shown as failed after some, and recovers."""
    found = idle.erase(next(iter(idle.survivors)))
    seen = []

    def stuck(name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr(idle.context.store, "delete", stuck)
        for _ in range(4):
            idle.reconcile()
            while idle.train():
                pass
            seen.append(idle.erasure(found.id).state)
    assert seen == ["withdrawn", "withdrawn", "failed", "failed"]
    idle.settle()
    idle.check()


@sqlite_only
def test_a_database_that_is_not_scrubbed_is_shown_as_a_failed_erasure(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = idle.erase(next(iter(idle.survivors)))
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "scrub", lambda self: False)
        for _ in range(idle.context.settings.training.attempts + 1):
            idle.reconcile()
        told = erasure_of(idle.erasure(found.id))
        assert told.state == "failed"
        assert "scrubbed" in (told.failure or "")
    idle.reconcile()
    told = erasure_of(idle.erasure(found.id))
    assert (told.state, told.failure) == ("completed", None)


@sqlite_only
def test_an_erasure_waits_while_a_reader_keeps_old_pages_alive(idle: World) -> None:
    with idle.context.registry.read() as reader:
        samples.count(reader)
        found = idle.erase(next(iter(idle.survivors)))
        idle.reconcile()
        while idle.train():
            pass
        idle.reconcile()
        assert idle.erasure(found.id).state == "withdrawn"
    idle.settle()
    assert idle.erasure(found.id).state == "completed"


def test_a_sample_that_was_never_trained_is_erased_without_any_training(idle: World) -> None:
    (late,) = idle.add(1)
    found = idle.erase(late.id)
    idle.reconcile()
    assert not idle.train()
    assert idle.erasure(found.id).state == "completed"
    idle.check()


def test_an_erasure_goes_on_when_its_cluster_joins_others(world: World) -> None:
    world.add(14)
    world.settle()
    smallest = min(world.clusters(), key=lambda cluster: cluster.samples)
    mine = [sample.id for sample in world.samples() if sample.cluster == smallest.id]
    kept = world.context.settings.partition.min - 1
    found = world.erase(*mine[kept:])
    world.settle()
    world.check()
    done = world.erasure(found.id)
    assert {affected.state for affected in done.clusters} <= {states.RESTORED, states.REMOVED}
    assert states.RESTORED in {affected.state for affected in done.clusters}


def test_what_later_plans_change_does_not_hold_up_an_erasure_that_has_come_so_far(idle: World) -> None:
    """One affected cluster is done and vanishes, another still fails: only the second is waited for."""
    one, *_, other = idle.clusters()
    first, second = (
        next(sample.id for sample in idle.samples() if sample.cluster == cluster.id) for cluster in (one, other)
    )
    found = idle.erase(first, second)
    broken = next(sample for sample in idle.samples() if sample.cluster == other.id)
    idle.file_of(samples.object_name(broken.id)).rename(idle.folder / "hidden")
    idle.reconcile()
    while idle.train():
        pass
    idle.reconcile()
    assert {affected.state for affected in idle.erasure(found.id).clusters} == {"restored", "retraining"}
    before = idle.erasure(found.id).clusters
    idle.erase(*(sample.id for sample in idle.samples() if sample.cluster == one.id))
    idle.reconcile()
    assert one.id not in {cluster.id for cluster in idle.clusters()}
    assert idle.erasure(found.id).clusters == before


# ------------------------------------------------------------------------------------------------------------ failing


def _fail_visibly(world: World, damage: Callable[[bytes], bytes | None]) -> tuple[Erasure, bytes, Sample]:
    """Erase a sample while the file of one that shares its cluster is damaged; train until that is shown as failed."""
    victim = next(iter(world.survivors.values()))
    cluster = world.cluster_of(victim).id
    other = next(s for s in world.samples() if s.cluster == cluster and s.id != victim.id)
    path = world.file_of(samples.object_name(other.id))
    whole = path.read_bytes()
    damaged = damage(whole)
    path.unlink() if damaged is None else path.write_bytes(damaged)
    found = world.erase(victim.id)
    for _ in range(world.context.settings.training.attempts):
        world.reconcile()
        while world.train():
            pass
        world.time.advance(600)
    world.reconcile()
    return world.erasure(found.id), whole, other


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: None,
        lambda whole: whole[:-1],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: b"",
    ],
    ids=["missing", "cut", "one bit", "empty"],
)
def test_a_cluster_that_cannot_be_retrained_is_shown_as_failed_and_recovers(
    idle: World, damage: Callable[[bytes], bytes | None]
) -> None:
    found, whole, other = _fail_visibly(idle, damage)
    assert (found.state, found.restored_at) == ("completed", None)
    assert "failed" in {affected.state for affected in found.clusters}
    cluster = idle.cluster_of(other)
    assert other.id in (cluster.failure or "")
    assert states.cluster_state(cluster, now=idle.time(), attempts=3) == "failed"
    idle.context.store.put(samples.object_name(other.id), whole)
    idle.settle()
    idle.check()
    assert idle.erasure(found.id).restored_at is not None


def test_erasing_the_damaged_sample_mends_the_cluster(idle: World) -> None:
    found, _, other = _fail_visibly(idle, lambda whole: None)
    idle.erase(other.id)
    idle.settle()
    idle.check()
    assert idle.erasure(found.id).restored_at is not None


# ------------------------------------------------------------------------------------------------------------- states


def test_an_erasure_never_leaves_completed() -> None:
    for before in states.ERASURE_CHANGES:
        assert states.may_change(before, states.COMPLETED) == (before != states.COMPLETED)
        assert not states.may_change(states.COMPLETED, before)


def test_a_state_changes_only_from_the_expected_one_and_only_where_that_is_legal(idle: World) -> None:
    found = idle.erase(next(iter(idle.survivors)))
    named = ErasureRow.id == found.id
    with idle.context.registry.write() as session:
        states.set_state(session, ErasureRow, [states.FAILED], states.COMPLETED, named)
    assert idle.erasure(found.id).state == states.WITHDRAWN
    with idle.context.registry.write() as session:
        states.set_state(session, ErasureRow, states.OPEN, states.FAILED, named)
    assert idle.erasure(found.id).state == states.FAILED
    with idle.context.registry.write() as session:
        for table, before, after in (
            (ErasureRow, states.COMPLETED, states.WITHDRAWN),
            (ErasureClusterRow, states.RESTORED, states.RETRAINING),
        ):
            with pytest.raises(ValueError, match=f"{before} cannot become {after}"):
                states.set_state(session, table, [before], after)


def test_clusters_are_shown_in_words(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(3)

    def shown() -> str:
        (cluster,) = world.clusters()
        return states.cluster_state(cluster, now=world.time(), attempts=3)

    assert shown() == "training"
    world.settle()
    assert shown() == "serving"
    world.erase(next(iter(world.survivors)))
    assert shown() == "withdrawn"
    world.reconcile()
    with world.context.registry.write() as session:
        lease = world.context.settings.worker.lease
        assert leases.claim(session, worker="w", now=world.time(), lease=lease, patience=lease)
    assert shown() == "training"
    world.erase(*list(world.survivors))
    assert shown() == "empty"


def test_counts_by_state_and_ids_ever_erased_are_known(idle: World) -> None:
    erased = next(iter(idle.survivors))
    idle.erase(erased)
    with idle.context.registry.read() as session:
        assert erasures.counts(session) == {"withdrawn": 1}
        assert erasures.erased_samples(session) == {erased}

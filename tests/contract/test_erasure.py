"""What an erasure promises, from the accepting transaction to the last byte."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest
from uuid6 import uuid7

from service.core import erasure, reconcile, states
from service.core.erasure import Quote
from service.errors import NotFound, Unavailable
from service.registry import clusters, erasures, prompts, samples, state
from service.registry.records import Erasure, Sample
from tests.world import MakeWorld, World, accepted, postgres_only, sqlite_only

Result = TypeVar("Result")

STRANGE_OWNER = "owner-ΩΨ-zanzibar-4711"
STRANGE_LABEL = "label-ЖЮ-quetzalcoatl-0815"


@pytest.fixture
def settled(world: World) -> World:
    """Several clusters, everything trained."""
    world.add(30)
    world.settle()
    assert len(world.clusters()) >= 3
    return world


def epoch(world: World) -> int:
    with world.context.registry.read() as session:
        return state.epoch(session)


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result | BaseException]:
    """Run all from threads of their own, started together; for each, its result or what it raised."""
    together = Barrier(len(calls))

    def run(call: Callable[[], Result]) -> Result:
        together.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(run, call) for call in calls]
    return [future.exception() or future.result() for future in futures]


# ------------------------------------------------------------------------------------------------- accepting


def test_accepting_withdraws_every_prompt_that_has_seen_the_sample(settled: World) -> None:
    sample = next(iter(settled.held.values()))
    served, before = settled.cluster_of(sample), epoch(settled)
    found = settled.erase(sample.id)
    (touched,) = found.clusters
    assert (touched.cluster, touched.prompt_before, touched.state) == (served.id, served.serving_key, "withdrawn")
    assert (found.state, found.accepted_at, found.withdrawn_at) == ("withdrawn", settled.time.now, settled.time.now)
    assert (found.due_at - found.accepted_at).days == 30
    assert served.serving_key not in settled.serving_keys()
    assert epoch(settled) > before
    with settled.context.registry.read() as session:
        assert prompts.get(session, [served.serving_key or ""]) == {}
        assert samples.get(session, sample.id) is None


def test_other_clusters_go_on_as_if_nothing_had_happened(settled: World) -> None:
    sample = next(iter(settled.held.values()))
    own = settled.cluster_of(sample).id
    before = {cluster.id: cluster.serving_key for cluster in settled.clusters() if cluster.id != own}
    settled.erase(sample.id)
    settled.settle()
    settled.check()
    after = {cluster.id: cluster.serving_key for cluster in settled.clusters()}
    unchanged = [cluster for cluster, key in before.items() if after.get(cluster) == key]
    assert len(unchanged) >= len(before) - 1  # a merge takes one neighbour in


def test_after_a_split_a_prompt_is_withdrawn_from_all_who_inherited_it(world: World) -> None:
    world.add(12)
    world.settle()
    (whole,) = world.clusters()
    world.add(8)
    world.reconcile()
    heirs = world.clusters()
    assert len(heirs) > 1
    assert {cluster.serving_key for cluster in heirs} == {whole.serving_key}
    found = world.erase(next(iter(world.held)))
    assert world.serving_keys() == []
    assert {touched.cluster for touched in found.clusters} == {cluster.id for cluster in heirs}
    world.settle()
    world.check()


def test_an_owner_is_forgotten_as_a_whole(settled: World) -> None:
    settled.add(5, owner="bob")
    found = settled.erase_owner("bob")
    assert (found.owner, found.samples) == ("bob", 5)
    assert {sample.owner for sample in settled.samples()} == {"ann"}
    settled.settle()
    settled.check()
    with pytest.raises(NotFound, match="no samples"):
        settled.erase_owner("bob")


def test_several_samples_are_forgotten_by_one_erasure(settled: World) -> None:
    ids = list(settled.held)[::3]
    found = settled.erase(*ids, ids[0])
    assert found.samples == len(ids)
    settled.settle()
    settled.check()


def test_samples_are_erased_all_or_none(settled: World) -> None:
    stranger = str(uuid7())
    with pytest.raises(NotFound, match=f"No such samples: {stranger}. Nothing has been erased"):
        erasure.erase_samples(settled.context, [*settled.held, stranger])
    with pytest.raises(NotFound, match="and 2 more"):
        erasure.erase_samples(settled.context, [str(uuid7()) for _ in range(12)])
    with pytest.raises(NotFound, match="No samples are named"):
        erasure.erase_samples(settled.context, [])
    assert settled.erasures() == []
    settled.check()


def test_erasing_again_is_answered_with_the_same_erasure_until_it_is_completed(settled: World) -> None:
    sample = next(iter(settled.held))
    first = settled.erase(sample)
    assert settled.erase(sample).id == first.id
    settled.reconcile()
    assert settled.erase(sample).id == first.id
    settled.settle()
    with pytest.raises(NotFound, match=sample):
        settled.erase(sample)
    assert len(settled.erasures()) == 1


def test_erasing_an_owner_again_is_answered_with_the_same_erasure(settled: World) -> None:
    assert settled.erase_owner("ann").id == settled.erase_owner("ann").id


def test_unknown_samples_and_owners_are_not_found(settled: World) -> None:
    with pytest.raises(NotFound):
        settled.erase(str(uuid7()))
    with pytest.raises(NotFound):
        settled.erase_owner("nobody")


def test_erasing_everything_leaves_nothing_at_all(settled: World) -> None:
    found = settled.erase_owner("ann")
    settled.settle()
    settled.check()
    assert settled.clusters() == []
    assert settled.objects() == set()
    assert {touched.state for touched in settled.erasure(found.id).clusters} == {states.REMOVED}
    settled.add(5)
    settled.settle()
    settled.check()


# ------------------------------------------------------------------------------------------------- at once


def test_of_many_erasures_of_one_sample_at_once_there_is_one(settled: World) -> None:
    sample = next(iter(settled.held))
    found = at_once([lambda: settled.erase(sample)] * 6)
    assert {type(result) for result in found} == {Erasure}
    assert len(settled.erasures()) == 1
    settled.settle()
    settled.check()


def test_an_owner_and_one_of_their_samples_erased_at_once_are_both_forgotten(settled: World) -> None:
    for turn in range(5):
        owner = f"owner {turn}"
        mine = settled.add(4, owner=owner)
        results = at_once([lambda o=owner: settled.erase_owner(o), lambda s=mine[1]: settled.erase(s.id)])
        assert {type(result) for result in results} == {Erasure}, results
    assert sum(found.samples for found in settled.erasures()) == 20
    settled.settle()
    settled.check()


def overtaken(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> Erasure:
    """Erase a sample and its owner's others; others are faster, between our finding the samples and locking them."""
    left = iter(list(world.held)[:times])
    lock = clusters.lock
    busy: list[bool] = []

    def overtake(*args: object, **keywords: object) -> None:
        if not busy and (victim := next(left, None)):
            busy.append(True)
            world.erase(victim)
            busy.clear()
        lock(*args, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "lock", overtake)
        return world.erase_owner("ann")


@postgres_only
def test_an_erasure_that_is_overtaken_takes_what_is_left(settled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = overtaken(settled, monkeypatch, times=2)
    assert found.samples == 28
    settled.settle()
    settled.check()


@postgres_only
def test_an_erasure_that_is_overtaken_again_and_again_says_so(settled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="Try again"):
        overtaken(settled, monkeypatch, times=erasure.TRIES)
    assert len(settled.held) == 30 - erasure.TRIES
    settled.settle()
    settled.check()


def test_heirs_of_one_prompt_can_be_erased_from_at_once(world: World) -> None:
    """Each erasure locks the clusters of the other: in one order, or both would wait for ever."""
    world.add(12)
    world.settle()
    world.add(20)
    world.reconcile()
    assert len(set(world.serving_keys())) == 1
    one_each = {sample.cluster: sample.id for sample in world.samples()}
    results = at_once([lambda i=sample_id: world.erase(i) for sample_id in one_each.values()])
    assert {type(result) for result in results} == {Erasure}, results
    world.settle()
    world.check()


# ----------------------------------------------------------------------------------------------- seeing through


def test_an_erasure_is_completed_only_when_bytes_are_gone_and_a_prompt_without_it_serves(settled: World) -> None:
    sample = next(iter(settled.held.values()))
    artifact = _artifact(settled, sample)
    found = settled.erase(sample.id)
    reconcile.replan(settled.context)
    erasure.advance(settled.context)
    assert settled.erasure(found.id).state == "retraining"
    assert {artifact, samples.object_name(sample.id)} <= settled.objects()
    settled.reconcile()
    assert not {artifact, samples.object_name(sample.id)} & settled.objects()
    assert settled.erasure(found.id).state == "retraining"
    settled.time.advance(7)
    while settled.train():
        pass
    assert settled.erasure(found.id).completed_at is None
    settled.reconcile()
    completed = settled.erasure(found.id)
    assert (completed.state, completed.completed_at) == ("completed", settled.time.now)
    for touched in completed.clusters:
        assert touched.prompt_after in settled.serving_keys()
        assert touched.prompt_after != touched.prompt_before
    settled.check()


def _artifact(world: World, sample: Sample) -> str:
    """The object that the prompt of this sample's cluster is in."""
    key = world.cluster_of(sample).serving_key or ""
    with world.context.registry.read() as session:
        return prompts.get(session, [key])[key].object_name


def test_an_erasure_does_not_complete_while_its_object_cannot_be_destroyed(
    settled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again on every pass, shown as failed after some, and recovers."""
    found = settled.erase(next(iter(settled.held)))
    seen = []

    def stuck(name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr(settled.context.store, "delete", stuck)
        for _ in range(4):
            settled.reconcile()
            while settled.train():
                pass
            seen.append(settled.erasure(found.id).state)
    assert seen == ["retraining", "retraining", "failed", "failed"]
    settled.settle()
    settled.check()


@sqlite_only
def test_an_erasure_waits_while_a_reader_keeps_old_pages_alive(settled: World) -> None:
    with settled.context.registry.read() as reader:
        samples.count(reader)
        found = settled.erase(next(iter(settled.held)))
        settled.reconcile()
        while settled.train():
            pass
        settled.reconcile()
        assert settled.erasure(found.id).state == "retraining"
    settled.settle()
    assert settled.erasure(found.id).state == "completed"


def test_a_sample_that_was_never_trained_is_erased_without_any_training(settled: World) -> None:
    (late,) = settled.add(1)
    found = settled.erase(late.id)
    settled.reconcile()
    assert not settled.train()
    assert settled.erasure(found.id).state == "completed"
    settled.check()


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
    assert {touched.state for touched in done.clusters} <= {states.COMPLETED, states.REMOVED}
    assert states.COMPLETED in {touched.state for touched in done.clusters}


def test_what_later_plans_change_does_not_hold_up_an_erasure_that_has_come_so_far(settled: World) -> None:
    """One touched cluster is done and vanishes, another still fails: only the second is waited for."""
    one, *_, other = settled.clusters()
    first, second = (
        next(sample.id for sample in settled.samples() if sample.cluster == cluster.id) for cluster in (one, other)
    )
    found = settled.erase(first, second)
    broken = next(sample for sample in settled.samples() if sample.cluster == other.id)
    settled.file_of(samples.object_name(broken.id)).rename(settled.folder / "hidden")
    settled.reconcile()
    while settled.train():
        pass
    settled.reconcile()
    assert {touched.state for touched in settled.erasure(found.id).clusters} == {"completed", "retraining"}
    before = settled.erasure(found.id).clusters
    settled.erase(*(sample.id for sample in settled.samples() if sample.cluster == one.id))
    settled.reconcile()
    assert one.id not in {cluster.id for cluster in settled.clusters()}
    assert settled.erasure(found.id).clusters == before


# ------------------------------------------------------------------------------------------------ no byte left


@pytest.mark.parametrize("hasty", [False, True], ids=["in turn", "bytes before plan"])
def test_no_file_holds_anything_of_an_erased_sample(world: World, hasty: bool) -> None:
    world.add(14)
    stranger = world.newcomer(STRANGE_LABEL, STRANGE_OWNER)
    (sample,) = map(accepted, world.take_in([stranger]))
    traces = {
        "pixels": stranger.picture.pixels.tobytes()[:96],
        "embedding": stranger.embedding.tobytes(),
        "owner": STRANGE_OWNER.encode(),
        "label": STRANGE_LABEL.encode(),
        "escaped label": STRANGE_LABEL.encode("ascii", "backslashreplace"),
        "digest": stranger.picture.digest.encode(),
    }
    world.settle()
    assert world.found_in_files(traces["pixels"])
    world.erase(sample.id)
    if hasty:  # another process, in the midst of its pass, destroys before anybody has planned
        reconcile.destroy_owed(world.context)
    world.settle()
    world.check()
    assert {name: world.found_in_files(trace) for name, trace in traces.items()} == {name: [] for name in traces}


def test_of_an_erased_owner_only_the_record_of_the_erasure_is_left(world: World) -> None:
    world.add(6)
    world.add(6, owner=STRANGE_OWNER)
    world.settle()
    found = world.erase_owner(STRANGE_OWNER)
    world.settle()
    world.check()
    assert world.erasure(found.id).owner == STRANGE_OWNER
    assert {sample.owner for sample in world.samples()} == {"ann"}


# ------------------------------------------------------------------------------------------------------ failing


def _fail_visibly(world: World, damage: Callable[[bytes], bytes | None]) -> tuple[Erasure, bytes, Sample]:
    """Erase a sample while the file of one that shares its cluster is damaged; train until it is shown as failed."""
    victim = next(iter(world.held.values()))
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
def test_an_erasure_that_cannot_be_retrained_is_shown_as_failed_and_recovers(
    settled: World, damage: Callable[[bytes], bytes | None]
) -> None:
    failed, whole, other = _fail_visibly(settled, damage)
    assert failed.state == "failed"
    assert "failed" in {touched.state for touched in failed.clusters}
    cluster = settled.cluster_of(other)
    assert other.id in (cluster.failure or "")
    assert states.cluster_state(cluster, now=settled.time(), attempts=3) == "failed"
    settled.context.store.put(samples.object_name(other.id), whole)
    settled.settle()
    settled.check()


def test_erasing_the_damaged_sample_mends_the_cluster(settled: World) -> None:
    failed, _, other = _fail_visibly(settled, lambda whole: None)
    settled.erase(other.id)
    settled.settle()
    settled.check()
    assert settled.erasure(failed.id).state == "completed"


# -------------------------------------------------------------------------------------------------------- quotes


def work_done(world: World) -> int:
    """Train all there is; the sample-epochs it took."""
    before = set(world.serving_keys())
    world.settle()
    with world.context.registry.read() as session:
        built = prompts.get(session, set(world.serving_keys()) - before)
    return sum(prompt.sample_epochs for prompt in built.values())


def test_a_quote_is_what_is_then_retrained(settled: World) -> None:
    for picked in (lambda ids: ids[:1], lambda ids: ids[::4], lambda ids: ids[:9]):
        ids = picked(list(settled.held))
        before = {cluster.id for cluster in settled.clusters()}
        quoted = erasure.quote(settled.context, sample_ids=ids)
        assert settled.clusters()  # a quote changes nothing
        found = settled.erase(*ids)
        assert work_done(settled) == quoted.sample_epochs
        assert {touched.cluster for touched in settled.erasure(found.id).clusters} & before <= set(quoted.clusters)
        assert quoted.samples == len(ids)
        assert quoted.full_sample_epochs == len(settled.held) * settled.context.training.epochs
        assert quoted.seconds is not None


def test_a_quote_for_an_owner_changes_nothing(settled: World) -> None:
    settled.add(3, owner="bob")
    settled.settle()
    quoted = erasure.quote(settled.context, owner="bob")
    settled.check()
    assert quoted.samples == 3
    settled.erase_owner("bob")
    assert work_done(settled) == quoted.sample_epochs


def test_a_quote_before_any_training_knows_no_duration(world: World) -> None:
    (sample,) = world.add(1)
    assert erasure.quote(world.context, sample_ids=[sample.id]) == Quote(1, (sample.cluster,), 0, None, 0)


def test_nothing_is_quoted_for_what_is_not_held(settled: World) -> None:
    unknown: list[dict[str, object]] = [{"owner": "nobody"}, {"sample_ids": [str(uuid7())]}, {"sample_ids": []}]
    for what in unknown:
        with pytest.raises(NotFound):
            erasure.quote(settled.context, **what)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- states


def test_an_erasure_never_leaves_completed() -> None:
    for before in states.ERASURE_CHANGES:
        assert states.may_change(before, states.COMPLETED) == (before != states.COMPLETED)
        assert not states.may_change(states.COMPLETED, before)


def test_clusters_are_shown_in_words(make_world: MakeWorld) -> None:
    world = make_world()
    world.add(3)

    def shown() -> str:
        (cluster,) = world.clusters()
        return states.cluster_state(cluster, now=world.time(), attempts=3)

    assert shown() == "training"
    world.settle()
    assert shown() == "serving"
    world.erase(next(iter(world.held)))
    assert shown() == "withdrawn"
    world.reconcile()
    with world.context.registry.write() as session:
        lease = world.context.settings.worker.lease
        assert clusters.claim(session, worker="w", now=world.time(), lease=lease, patience=lease)
    assert shown() == "training"
    world.erase(*list(world.held))
    assert shown() == "empty"


def test_counts_by_state_and_ids_ever_erased_are_known(settled: World) -> None:
    kept, erased = list(settled.held)[:2]
    settled.erase(erased)
    with settled.context.registry.read() as session:
        assert erasures.counts(session) == {"withdrawn": 1}
        assert erasures.was_erased(session, erased)
        assert not erasures.was_erased(session, kept)

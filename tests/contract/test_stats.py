"""What /metrics tells of the registry, against what really happened."""

from datetime import timedelta
from itertools import product

import alembic.command
import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from models import checkpoint
from service.core import states, training
from service.core.stats import Stats, collect
from service.registry import clusters, counters
from service.registry.counters import COMPLETION, FAILURES, SAMPLE_EPOCHS, TRAINING
from service.registry.engine import Registry, _config, migrate
from service.registry.tables import ClusterRow, CounterRow, ErasureRow
from tests.rows import NOW, make_cluster, make_prompt, make_sample
from tests.world import MakeWorld, World, meanwhile


def stats(world: World) -> Stats:
    return collect(world.context)


def test_counts_are_what_happened(world: World) -> None:
    before = stats(world)
    assert (before.samples, before.oldest_change, before.oldest_erasure) == (0, 0.0, 0.0)
    assert set(before.clusters) == set(states.CLUSTER_STATES)
    samples = world.add(30)
    world.time.advance(7)
    waiting = stats(world)
    assert waiting.samples == 30
    assert waiting.oldest_change == 7.0

    trained, epochs = 0, 0
    world.reconcile()
    while world.train():
        trained += 1
    for cluster in world.clusters():
        epochs += cluster.samples * world.context.training.epochs
    after = stats(world)
    assert after.clusters["serving"] == trained == len(world.clusters())
    assert after.counters.count(TRAINING) == trained
    assert after.counters.plain(SAMPLE_EPOCHS).total == epochs
    assert 0 < after.counters.total(TRAINING) < 60
    assert after.oldest_change == 0.0
    assert after.epoch > waiting.epoch

    first, second = world.erase(samples[0].id), world.erase(samples[1].id)
    world.time.advance(40)
    running = stats(world)
    assert running.erasures == {"withdrawn": 2, "failed": 0, "completed": 0}
    assert (running.oldest_erasure, running.overdue, running.samples) == (40.0, 0, 28)
    assert running.pending_deletions > 0
    assert running.unrestored == 2
    world.time.advance(31 * 86_400)
    assert stats(world).overdue == 2
    world.reconcile()
    done = stats(world)
    assert done.erasures == {"withdrawn": 0, "failed": 0, "completed": 2}  # before anything has been trained
    assert (done.oldest_erasure, done.overdue, done.pending_deletions, done.unrestored) == (0.0, 0, 0, 2)
    took = [world.erasure(erasure.id) for erasure in (first, second)]
    seconds = sum((e.completed_at - e.accepted_at).total_seconds() for e in took if e.completed_at is not None)
    assert done.counters.total(COMPLETION) == pytest.approx(seconds)
    assert done.counters.buckets(COMPLETION)[-1] == ("+Inf", 2)
    world.reconcile()
    assert stats(world).counters == done.counters  # looking again counts nothing again
    world.settle()
    assert stats(world).unrestored == 0
    assert stats(world).counters.buckets(COMPLETION) == done.counters.buckets(COMPLETION)


def test_states_told_by_the_database_are_the_api_s(registry: Registry) -> None:
    """Every combination of what a state depends on."""
    later = NOW + timedelta(seconds=5)
    with registry.write() as session:
        make_prompt(session, "p" * 64, [str(uuid7())])
        many = product((0, 1), (False, True), ("p" * 64, None), ("p" * 64, None), (False, True), (0, 3),
                       (NOW, None), (NOW, later, None))  # fmt: skip
        for place, values in enumerate(many):
            names = ("samples", "unplanned", "desired_key", "serving_key", "rebuild", "attempts", "withdrawn_at",
                     "leased_until")  # fmt: skip
            cluster = make_cluster(session, lo=100 * place)
            session.execute(
                sa.update(ClusterRow).where(ClusterRow.id == cluster).values(**dict(zip(names, values, strict=True)))
            )
    with registry.read() as session:
        expected = dict.fromkeys(states.CLUSTER_STATES, 0)
        for cluster_record in clusters.every(session):
            expected[states.cluster_state(cluster_record, now=NOW, attempts=3)] += 1
        found = dict.fromkeys(states.CLUSTER_STATES, 0)
        for alike in clusters.census(session, now=NOW, attempts=3):
            name = states.state_of(
                empty=alike.empty, failing=alike.failing, serving=alike.serving, withdrawn=alike.withdrawn
            )
            found[name] += alike.clusters
    assert found == expected
    assert min(found.values()) > 0


def test_what_is_rolled_back_counts_nothing(planned: World) -> None:
    (cluster,) = planned.clusters()
    overtaken = meanwhile("store", lambda: None)

    def gone(name: str) -> None:
        overtaken(name)
        if name == "commit":
            raise OSError("the disk has gone")

    assert planned.train(step=gone)
    counted = stats(planned).counters
    assert counted.count(TRAINING) == 0
    assert counted.plain(SAMPLE_EPOCHS).total == 0
    assert counted.plain(FAILURES).count == 1
    assert planned.clusters()[0].id == cluster.id
    planned.settle()
    assert stats(planned).counters.count(TRAINING) == 1


def test_a_training_that_was_overtaken_counts_nothing(planned: World) -> None:
    victim = planned.samples()[0]
    planned.train(step=meanwhile("publish", lambda: planned.erase(victim.id)))
    counted = stats(planned).counters
    assert counted.count(TRAINING) == counted.plain(FAILURES).count == 0


def test_failed_trainings_are_counted(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.add(6)
    world.reconcile()

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", broken)
        for _ in range(world.context.settings.training.attempts):
            assert world.train()
            world.time.advance(training.pause_after(world.context.settings.training, 9).total_seconds())
            world.reconcile()
    told = stats(world)
    assert told.counters.plain(FAILURES).count == world.context.settings.training.attempts
    assert told.clusters["failed"] == 1


def test_accepting_an_erasure_waits_for_no_tally(idle: World) -> None:
    """Its transaction never asks for the table that publications lock."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    engine = idle.context.registry.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    idle.erase(idle.samples()[0].id)
    sa.event.remove(engine, "before_cursor_execute", note)
    assert any("erasures" in statement for statement in asked)
    assert not any("tallies" in statement for statement in asked)


def test_a_scrape_reads_no_samples_and_few_rows(idle: World) -> None:
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    engine = idle.context.registry.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    stats(idle)
    sa.event.remove(engine, "before_cursor_execute", note)
    assert len(asked) <= 12
    for statement in asked:
        for table in ("FROM samples", "FROM owners", "prompt_members", "erasure_samples"):
            assert table not in statement, statement


def test_tallies_of_many_at_once_are_all_counted(registry: Registry) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def count(number: int) -> None:
        for i in range(10):
            with registry.write() as session:
                counters.observe(session, TRAINING, float(number * 10 + i))
                counters.add(session, SAMPLE_EPOCHS, 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    with registry.read() as session:
        counted = counters.every(session)
    assert counted.count(TRAINING) == 40
    assert counted.total(TRAINING) == sum(range(40))
    assert counted.plain(SAMPLE_EPOCHS) == counters.CounterValue(40, 200.0)
    assert dict(counted.buckets(TRAINING))["10.0"] == 11  # a bound belongs to its own bucket


def test_bounds_of_another_release_stay(registry: Registry) -> None:
    with registry.write() as session:
        session.add(CounterRow(name=TRAINING.name, le="42.0", count=3, total=120.0))
        session.flush()
        counters.observe(session, TRAINING, 50.0)
    with registry.read() as session:
        counted = dict(counters.every(session).buckets(TRAINING))
    assert (counted["30.0"], counted["42.0"], counted["60.0"], counted["+Inf"]) == (0, 3, 4, 4)


def test_erasures_completed_before_the_upgrade_are_counted(database_url: str, registry: Registry) -> None:
    with registry.write() as session:
        make_sample(session, make_cluster(session))
        for place, seconds in enumerate((0.5, 3.0, 10.0, 1e6)):
            done = NOW + timedelta(seconds=seconds)
            row = ErasureRow(id=f"0000000000007000800000000000000{place}", state="completed", accepted_at=NOW)
            row.withdrawn_at, row.due_at, row.completed_at = NOW, NOW, done
            row.ledgered, row.ledger_attempts = True, 0
            session.add(row)
    alembic.command.downgrade(_config(database_url), "0003")
    migrate(database_url)
    with registry.read() as session:
        counted = counters.every(session)
    assert counted.total(COMPLETION) == pytest.approx(1_000_013.5)
    found = dict(counted.buckets(COMPLETION))
    assert (found["1.0"], found["5.0"], found["10.0"], found["604800.0"], found["+Inf"]) == (1, 2, 3, 3, 4)

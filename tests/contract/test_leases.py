"""Leases: who trains a cluster, on SQLite and PostgreSQL alike."""

from datetime import timedelta
from threading import Barrier, Thread

import pytest
from uuid6 import uuid7

from service.registry import clusters, leases
from service.registry.engine import Registry
from service.registry.leases import Claim
from tests.rows import LEASE, NOW, PATIENCE, claim, make_cluster, make_prompt

pytestmark = pytest.mark.sql


def test_a_cluster_is_leased_to_one_worker_at_a_time(registry: Registry) -> None:
    with registry.write() as session:
        cluster = make_cluster(session)
    first = claim(registry, "first")
    assert first is not None
    assert first.cluster == cluster
    assert claim(registry, "second") is None


def test_workers_that_claim_at_once_get_different_clusters(registry: Registry) -> None:
    with registry.write() as session:
        made = {make_cluster(session, lo=100 * place, key=f"{place}" * 64) for place in range(3)}
    claims: list[Claim | None] = []
    together = Barrier(5)

    def work(name: str) -> None:
        together.wait()
        claims.append(claim(registry, name))

    threads = [Thread(target=work, args=(f"worker {i}",)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leased = [found.cluster for found in claims if found is not None]
    assert len(leased) == len(set(leased))
    assert set(leased) <= made
    while (late := claim(registry)) is not None:  # PostgreSQL may have sent a loser away empty-handed
        leased.append(late.cluster)
    assert sorted(leased) == sorted(made)


def test_an_expired_lease_is_taken_over_and_names_what_it_replaces(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    dead = claim(registry, "dead")
    assert dead is not None
    assert claim(registry, "heir", after=19.9) is None
    heir = claim(registry, "heir", after=20)
    assert heir is not None
    assert heir.replaced == dead.token
    with registry.write() as session:
        assert not leases.renew(session, dead, until=NOW + 9 * LEASE)
        assert not leases.publish(session, dead)
        assert not leases.give_up(session, dead)
        assert not leases.fail(session, dead, failure="late", retry_at=NOW)
        assert leases.renew(session, heir, until=NOW + 3 * LEASE)
    assert claim(registry, "third", after=59) is None


def test_a_lease_whose_key_is_no_longer_desired_can_only_be_given_up(registry: Registry) -> None:
    with registry.write() as session:
        cluster = make_cluster(session, key="a" * 64)
    leased = claim(registry)
    assert leased is not None
    with registry.write() as session:
        make_prompt(session, leased.key, [str(uuid7())])
        clusters.plan(session, cluster, "b" * 64, through=0)
        assert not leases.renew(session, leased, until=NOW + LEASE)
        assert not leases.publish(session, leased)
        assert leases.give_up(session, leased)
    again = claim(registry)
    assert again is not None
    assert again.key == "b" * 64


def test_a_published_key_is_served_and_waits_no_more(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    leased = claim(registry)
    assert leased is not None
    with registry.write() as session:
        make_prompt(session, leased.key, [str(uuid7())])
        assert leases.publish(session, leased)
        assert not leases.publish(session, leased)
        (cluster,) = clusters.every(session)
        assert cluster.serving_key == cluster.desired_key == leased.key
        assert leases.waiting(session, now=NOW, patience=PATIENCE) == 0


def test_a_failed_training_pauses_before_it_is_tried_again(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    leased = claim(registry)
    assert leased is not None
    with registry.write() as session:
        assert leases.fail(session, leased, failure="no", retry_at=NOW + timedelta(seconds=10))
    assert claim(registry, after=9) is None
    assert claim(registry, after=10) is not None


def test_a_worker_that_leaves_gives_all_its_leases_back(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session, lo=0)
        make_cluster(session, lo=100)
    leased = {claim(registry, "leaver"), claim(registry, "leaver")}
    with registry.write() as session:
        assert set(leases.release(session, worker="leaver")) == {found.token for found in leased if found}
        assert leases.release(session, worker="leaver") == []
    assert claim(registry) is not None


def test_deletions_are_trained_before_additions(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session, lo=0)
        bereft = make_cluster(session, lo=100)
        clusters.remove_members(session, bereft, 0)
        clusters.plan(session, bereft, "c" * 64, through=0)
    first = claim(registry)
    assert first is not None
    assert first.cluster == bereft

"""Owners that an earlier release spelt in several ways are brought to one; copies of one picture, of many owners."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import alembic.command
import numpy as np
import pytest
import sqlalchemy as sa

from models.partition import tree
from models.spec import sha256
from service.core import access, erasure
from service.core.audit import Scope, audit
from service.core.idempotency import once, request_digest
from service.core.redescribe import Redescriber
from service.errors import Conflict, Invalid, StillRunning
from service.registry import keys, layout_state, prompts, samples
from service.registry.engine import Registry, _config, check_migrations
from service.registry.records import Sample
from service.registry.tables import ClusterRow, OwnerRow, SampleRow, StateRow
from service.serving.closed_form import ClosedFormTier
from tests.replicas import is_right
from tests.world import MakeWorld, World, accepted

pytestmark = pytest.mark.sql

NFC, NFD = "Jos\u00e9", "Jose\u0301"
CAT, TAC = "ch\u00e2t", "cha\u0302t"  # a label, composed and decomposed


@pytest.fixture
def old_world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """What samples are located and kept by as release 0.1 did: until it is migrated by `upgrade`."""
    monkeypatch.setattr(tree, "tail", lambda image_digest, owner: int(image_digest[:4], 16))
    return make_world()


def old_line(world: World) -> str:
    """The line's digest as release 0.1 computed it."""
    prototypes = world.context.backbone.prototypes
    order, _ = tree._dendrogram(prototypes, world.context.settings.cache)
    return sha256(b"oubli/line/tree/1", np.ascontiguousarray(prototypes).tobytes(), order.tobytes())


def upgrade(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the schema of release 0.1, with the layout that it had in force and its plans, to this one's."""
    line = old_line(world)
    monkeypatch.undo()
    with world.context.registry.read() as session:
        planned = session.execute(sa.select(ClusterRow.id, ClusterRow.desired_key)).all()
    world.close()
    url = world.context.settings.database
    alembic.command.downgrade(_config(url), "0007")
    registry = Registry(url)
    with registry.write() as session:  # a way back that release 0.1 never went is no part of this
        session.execute(sa.update(StateRow).values(layout_digest=line))
        if world.context.partition.spec.kind == "tree":
            session.execute(sa.update(StateRow).values(partition_digest="of release 0.1"))
        for cluster, key in planned:
            session.execute(
                sa.update(ClusterRow).where(ClusterRow.id == cluster).values(desired_key=key, unplanned=False)
            )
    registry.close()
    alembic.command.upgrade(_config(url), "head")
    check_migrations(url)
    world.restart()
    while Redescriber(world.context).portion():  # a release that old has recorded no kind of descriptor
        pass
    world.survivors = {
        sample.id: replace(sample, owner=OF.get(sample.owner, sample.owner), label=OF.get(sample.label, sample.label))
        for sample in world.survivors.values()
    }


OF = {NFD: NFC, TAC: CAT}


def held_for(world: World, owner: str) -> list[str]:
    with world.context.registry.read() as session:
        return [sample.id for sample in samples.of_owner(session, owner)]


def owners(world: World) -> list[str]:
    with world.context.registry.read() as session:
        return sorted(session.execute(sa.select(OwnerRow.ref)).scalars())


def served_labels(world: World) -> set[str]:
    with world.context.registry.read() as session:
        return {label for prompt in prompts.get(session, world.serving_keys()).values() for label in prompt.labels}


# -------------------------------------------------------------------------------------------------------- the migration


def test_two_spellings_of_an_owner_become_one_and_nothing_is_trained_for_it(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_world
    world.add(24)
    mine = [*world.add(3, NFC), *world.add(4, NFD)]
    world.add(2, NFD + " only")
    world.settle()
    before = world.serving_keys()
    upgrade(world, monkeypatch)
    assert owners(world) == sorted(["ann", NFC, NFC + " only"])
    assert held_for(world, NFC) == [sample.id for sample in mine]
    world.settle()
    world.check()
    assert list(audit(world.context, Scope())) == []
    assert world.serving_keys() == before
    found = world.erase_owner(NFC)
    assert found.samples == 7
    world.settle()
    world.check()
    assert list(audit(world.context, Scope())) == []


def test_two_spellings_of_a_label_become_one_for_prompts_and_replicas(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_world
    world.add(60)
    world.take_in([world.new_sample(label) for label in (CAT, TAC, TAC)])
    world.settle()
    assert TAC in served_labels(world)
    before = set(world.serving_keys())
    with closing(Registry(world.context.settings.database)) as beside:
        tier = ClosedFormTier(replace(world.context, registry=beside), name="replica")
        tier.keep()
        assert is_right(world, tier)
        upgrade(world, monkeypatch)
        assert {sample.label for sample in world.samples()} == {"cat", "dog", CAT}
        assert TAC not in served_labels(world)  # at once, not when its successor is trained
        assert tier.current() is None  # it knows a label that no sample has
        tier.keep()
        assert is_right(world, tier)
        world.settle()
        world.check()
        tier.keep()
        assert list(audit(world.context, Scope(rebuild_all=True))) == []
    assert 0 < len(before - set(world.serving_keys())) < len(before)  # only where a label has changed


def test_what_is_on_record_of_an_erasure_and_a_key_has_one_spelling(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = old_world
    world.add(12)
    world.add(2, NFD)
    asked = erasure.erase_owner(world.context, NFD)
    world.survivors = {i: sample for i, sample in world.survivors.items() if sample.owner != NFD}
    with world.context.registry.write() as session:
        key = keys.create(session, name=NFD, digest="d", scopes=["read"], now=world.time())
    upgrade(world, monkeypatch)
    assert world.erasure(asked.id).owner == NFC
    assert erasure.erase_owner(world.context, NFC).id == asked.id  # repeated while it runs: the same
    assert [(one.id, one.name) for one in access.list_keys(world.context.registry)] == [(key.id, NFC)]
    world.settle()
    world.check()


def test_near_copies_that_were_divided_among_themselves_are_located_anew(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that ends between two tails means nothing once tails are computed otherwise."""
    world = old_world
    world.add(12)
    alike = world.new_sample().embedding
    world.take_in([replace(new_sample, embedding=alike) for new_sample in world.new_samples(30, NFD)])
    world.settle()
    assert any(cluster.lo % 2**tree.TAIL_BITS for cluster in world.clusters())
    upgrade(world, monkeypatch)
    with world.context.registry.read() as session:
        assert layout_state.digest(session) is None
    world.settle()
    world.check()
    assert list(audit(world.context, Scope())) == []


def test_other_partitions_keep_their_positions(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(partition={"kind": "random", "clusters": 3})
    world.add(12, NFD)
    world.settle()
    places, line = [sample.position for sample in world.samples()], world.context.partition.line_digest
    monkeypatch.setattr("tests.contract.test_spelling.old_line", lambda world: line)
    upgrade(world, monkeypatch)
    assert [sample.position for sample in world.samples()] == places
    assert not world.reconcile()
    world.check()
    assert owners(world) == [NFC]


def test_a_text_that_outgrows_the_room_it_had_finds_more(old_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 letters that NFC takes apart."""
    world = old_world
    long = "\u0958" * 128
    world.take_in([world.new_sample(long, long)])
    upgrade(world, monkeypatch)
    (sample,) = world.samples()
    assert sample.owner == sample.label == "\u0915\u093c" * 128


def test_the_number_of_an_erased_sample_is_not_given_again(world: World) -> None:
    """SQLite gives the highest number again once its row is gone, unless the table says otherwise."""

    def last() -> int:
        with world.context.registry.read() as session:
            return session.execute(sa.select(sa.func.max(SampleRow.seq))).scalar_one()

    *_, newest = world.add(3)
    before = last()
    world.erase(newest.id)
    world.add(1)
    assert last() > before


# ------------------------------------------------------------------------------------------------------ other entrances


def test_an_idempotency_key_has_one_spelling_too(world: World) -> None:
    """As HTTP hands it over: UTF-8, read as Latin-1."""
    digest = request_digest(b"body")
    with once(world.context, "POST /erasures", NFD.encode().decode("latin-1"), digest, caller="app"):
        again = once(world.context, "POST /erasures", NFC.encode().decode("latin-1"), digest, caller="app")
        with pytest.raises(StillRunning, match="still running"), again:
            pytest.fail("the block must not run")


@pytest.mark.parametrize("key", ["\u00c0 la carte", "\u00c1", "\u3000a\u3000b"], ids=ascii)
def test_an_idempotency_key_may_be_in_any_script(world: World, key: str) -> None:
    with once(world.context, "POST /erasures", key.encode().decode("latin-1"), "d" * 64, caller="app") as ticket:
        assert ticket.key_digest is not None


def test_names_of_keys_have_one_spelling_and_are_refused_like_other_text(world: World) -> None:
    registry = world.context.registry
    made, _ = access.create_key(registry, world.time, scopes=["read"], name=f" {NFD}")
    assert made.name == NFC
    nameless, _ = access.create_key(registry, world.time, scopes=["read"])
    assert nameless.name == ""
    for name in ("a\u202eb", "x" * 201):
        with pytest.raises(Invalid, match="name must"):
            access.create_key(registry, world.time, scopes=["read"], name=name)
    assert len(access.list_keys(registry)) == 2


# -------------------------------------------------------------------------------------------- copies of one picture


def results(world: World, picture: Any, owner: str, count: int) -> list[str]:
    return [type(one).__name__ for one in world.take_in([replace(picture, owner=owner)] * count)]


def test_copies_are_counted_for_each_owner_and_tell_nothing_of_others(world: World) -> None:
    most = world.context.partition.max_copies
    assert most is not None
    picture = world.new_sample()
    for owner in ("ann", "bob"):
        assert results(world, picture, owner, most + 1) == ["Sample"] * most + ["Conflict"]
    (refused,) = world.take_in([replace(picture, owner="ann")])
    assert isinstance(refused, Conflict)
    assert "This owner has" in refused.detail
    world.erase_owner("bob")
    assert results(world, picture, "ann", 1) == ["Conflict"]
    assert results(world, picture, "cy", most) == ["Sample"] * most


def test_identical_pictures_of_many_owners_are_divided_like_others(world: World) -> None:
    settings = world.context.settings.partition
    world.add(10)
    picture = world.new_sample()
    for number in range(12):
        assert results(world, picture, f"owner {number}", 5) == ["Sample"] * 5
    world.settle()
    world.check()
    sizes = [cluster.samples for cluster in world.clusters()]
    assert sum(sizes) == 70
    assert settings.min <= min(sizes) <= max(sizes) <= settings.cap
    world.erase_owner("owner 5")
    world.settle()
    world.check()
    assert list(audit(world.context, Scope())) == []


def test_samples_that_nothing_tells_apart_stay_together_however_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners whose tails collide: then a cluster is larger than `cap`, and everything else holds."""
    monkeypatch.setattr(tree, "tail", lambda image_digest, owner: 7)
    picture = world.new_sample()
    kept: list[Sample] = []
    for owner in ("ann", "bob", "cy"):
        kept += [accepted(one) for one in world.take_in([replace(picture, owner=owner)] * 6)]
    world.add(10)
    world.settle()
    world.check()
    assert max(cluster.samples for cluster in world.clusters()) >= 18
    world.erase(kept[0].id)
    world.settle()
    world.check()
    assert list(audit(world.context, Scope(rebuild_all=True))) == []

"""Samples of the evaluation set: kept, described and erased as all others are, and never learned from."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7

from service.core import budgets, erasure
from service.core.audit import Scope, audit
from service.core.intake import take_in
from service.core.redescribe import Redescriber
from service.errors import NotFound, OverBudget
from service.registry import descriptions, evaluation, feed, layout_state, prompts, samples
from service.registry.feed import Added
from service.registry.records import Role
from service.registry.tables import OwnerRow, PromptMemberRow, SampleRow, StateRow
from tests.layouts import KINDS
from tests.replicas import is_right, start
from tests.world import MakeWorld, World, accepted, opened

EVALUATION: Role = "evaluation"


def learned(world: World) -> tuple[object, ...]:
    """All that is learned, and what it hangs on: bit for bit."""
    with world.context.registry.read() as session:
        state = session.execute(sa.select(StateRow)).scalar_one()
        columns = (state.epoch, state.additions, state.removals, state.layout_digest)
        built = prompts.get(session, world.serving_keys())
        return (
            columns,
            [(key, prompt.digest, prompt.trained_at) for key, prompt in sorted(built.items())],
            world.clusters(),
            layout_state.anchors(session),
            samples.labels(session),
            feed.everything(session, kind=world.context.backbone.kind.name),
            [(one.id, one.position, one.cluster) for one in samples.every(session)],
        )


def findings(world: World) -> list[str]:
    return [f"{found.subject} {found.reason}" for found in audit(world.context, Scope(embeddings=True))]


def owners(world: World) -> set[str]:
    with world.context.registry.read() as session:
        return set(session.execute(sa.select(OwnerRow.ref)).scalars())


# ----------------------------------------------------------------------------------------------------- not learned from


@pytest.mark.parametrize("kind", ["tree", "anchors", "random"])
def test_contributing_and_erasing_them_changes_nothing_that_is_learned(make_world: MakeWorld, kind: str) -> None:
    world = make_world(partition=KINDS[kind])
    world.add(30)
    world.settle()
    tier = start(world)
    before, head = learned(world), tier.current()
    kept = world.add(20, owner="eve", role=EVALUATION)
    world.take_in([replace(world.new_sample("gnu", "eve"), role=EVALUATION)])
    world.settle()
    assert learned(world) == before
    world.erase(kept[0].id)
    world.erase(kept[1].id, kept[2].id)
    world.settle()
    assert learned(world) == before
    world.erase_owner("eve")
    world.settle()
    assert learned(world) == before
    assert tier.current() is head
    assert is_right(world, tier)
    world.check()
    assert findings(world) == []


@pytest.mark.parametrize("kind", ["tree", "anchors"])
def test_a_service_that_was_given_none_learns_the_same(make_world: MakeWorld, kind: str, tmp_path: Path) -> None:
    """Between the others, in the same requests, of the same owners; some erased with them."""
    world, chance = make_world(partition=KINDS[kind]), random.Random(3)
    given = [replace(one, role=EVALUATION if i % 3 == 0 else "training") for i, one in enumerate(world.new_samples(45))]
    for start_ in range(0, 45, 9):
        world.take_in(given[start_ : start_ + 9])
    world.settle()
    world.erase(*chance.sample([*world.survivors, *world.held_out], 12))
    world.settle()
    world.check()
    left = {sample.digest for sample in world.survivors.values()}
    with opened(tmp_path / "never saw", partition=KINDS[kind]) as other:
        other.take_in([one for one in given if one.digest in left and one.role == "training"])
        other.settle()
        theirs = [prompt_digests(other), other.closed_form_digest()]
    assert [prompt_digests(world), world.closed_form_digest()] == theirs
    assert is_right(world, start(world))


def prompt_digests(world: World) -> list[str]:
    with world.context.registry.read() as session:
        return sorted(prompt.digest for prompt in prompts.get(session, world.serving_keys()).values())


def test_alone_they_make_no_cluster_and_nothing_to_predict_with(world: World) -> None:
    world.add(5, role=EVALUATION)
    world.settle()
    world.check()
    assert world.clusters() == []
    with world.context.registry.read() as session:
        assert not samples.any_recorded(session)
        assert (samples.labels(session), samples.count_owners(session)) == ([], 1)
    first = next(iter(world.held_out))
    world.erase(first)
    world.settle()
    assert world.clusters() == []


def test_the_table_refuses_one_that_is_in_a_cluster_and_another_that_is_in_none(world: World) -> None:
    (sample,) = world.add(1)
    (apart,) = world.add(1, role=EVALUATION)
    changes = [
        (sample, {"role": EVALUATION}),
        (sample, {"position": None}),
        (apart, {"role": "training"}),
        (apart, {"cluster_id": sample.cluster}),
        (apart, {"addition": 1}),
    ]
    for one, values in changes:
        with pytest.raises(IntegrityError), world.context.registry.write() as session:
            session.execute(sa.update(SampleRow).where(SampleRow.id == one.id).values(**values))


# -------------------------------------------------------------------------------------------------------------- intake


def test_they_are_recorded_with_their_role_and_listed_by_it(world: World) -> None:
    (plain,) = world.add(1)
    (apart,) = world.add(1, role=EVALUATION)
    assert (plain.role, apart.role, apart.cluster, apart.position) == ("training", EVALUATION, None, None)
    with world.context.registry.read() as session:
        assert samples.get(session, apart.id) == apart
        everything = [sample.id for sample in samples.page(session, limit=9).items]
        assert [sample.id for sample in samples.page(session, limit=9, role=EVALUATION).items] == [apart.id]
        assert [sample.id for sample in samples.page(session, limit=9, role="training").items] == [plain.id]
        assert evaluation.survivors(session) == (Added(apart.id, apart.digest, apart.label),)
        assert evaluation.count(session) == 1
    assert everything == [plain.id, apart.id]


def test_a_repeated_upload_is_one_of_the_same_role(world: World) -> None:
    """As with another label: what is said of a picture makes it another sample."""
    picture = replace(world.new_sample(), unless_held=1)
    apart = replace(picture, role=EVALUATION)
    first, second = accepted(world.take_in([picture])[0]), accepted(world.take_in([apart])[0])
    assert first.id != second.id
    answers = world.take_in([apart, picture, apart])
    assert [one.sample.id for one in answers] == [second.id, first.id, second.id]  # type: ignore[union-attr]


def test_copies_of_an_evaluation_picture_count_for_no_limit(make_world: MakeWorld) -> None:
    world = make_world(partition={"cap": 6, "min": 2})
    most = world.context.partition.max_copies
    assert most is not None
    picture = world.new_sample()
    for given in (replace(picture, role=EVALUATION), picture):
        results = Counter(type(one).__name__ for one in world.take_in([given] * (most + 2)))
        limited = given.role == "training"
        assert results == ({"Sample": most, "Conflict": 2} if limited else {"Sample": most + 2})
    world.settle()
    world.check()


def test_they_are_charged_to_the_key_like_others(make_world: MakeWorld) -> None:
    world = make_world(intake={"per_hour": 256})
    key = str(uuid7())
    take_in(world.context, world.new_samples(2, role=EVALUATION), key_id=key)
    budgets.require(world.context, key, budgets.IMAGES, 254)
    with pytest.raises(OverBudget):
        budgets.require(world.context, key, budgets.IMAGES, 255)


# -------------------------------------------------------------------------------------------------------------- erasing


def test_every_way_to_erase_leaves_nothing_of_them(world: World) -> None:
    world.add(8, owner="ann")
    kept = world.add(6, owner="secret-eve", role=EVALUATION)
    world.add(2, owner="ann", role=EVALUATION)
    world.settle()
    for accept in (
        lambda: world.erase(kept[0].id),
        lambda: world.erase(kept[1].id, kept[2].id),
        lambda: world.erase_owner("secret-eve"),
    ):
        found = accept()
        world.settle()
        after = world.erasure(found.id)
        assert (after.state, after.clusters) == ("completed", ())
        assert after.restored_at is not None
        world.check()
    assert owners(world) == {"ann"}
    assert findings(world) == []
    with pytest.raises(NotFound):
        world.erase(kept[0].id)


def test_one_erasure_of_both_kinds(world: World) -> None:
    plain, apart = world.add(9, owner="eve"), world.add(3, owner="eve", role=EVALUATION)
    world.add(9)
    world.settle()
    quote = erasure.quote(world.context, owner="eve")
    assert (quote.samples, bool(quote.clusters)) == (12, True)
    found = world.erase(plain[0].id, apart[0].id)
    assert (found.samples, len(found.clusters)) == (2, 1)
    world.erase_owner("eve")
    world.settle()
    world.check()
    assert owners(world) == {"ann"}


def test_erasing_them_is_quoted_as_free(make_world: MakeWorld) -> None:
    """Also where a layout is fitted on the first samples, which it might change."""
    world = make_world(partition=KINDS["anchors"])
    world.add(30)
    apart = world.add(25, owner="eve", role=EVALUATION)
    world.settle()
    for quote in (
        erasure.quote(world.context, owner="eve"),
        erasure.quote(world.context, sample_ids=[one.id for one in apart]),
    ):
        assert (quote.samples, quote.clusters, quote.sample_epochs) == (25, (), 0)
        assert quote.full_sample_epochs == 30 * world.context.training.epochs


def test_the_owner_of_evaluation_samples_alone_is_deleted_though_nothing_is_to_be_trained(world: World) -> None:
    world.add(8)
    world.add(1, owner="secret-eve", role=EVALUATION)
    world.settle()
    world.erase_owner("secret-eve")
    assert "secret-eve" in owners(world)
    world.reconcile()
    world.reconcile()
    assert owners(world) == {"ann"}
    assert world.erasures()[0].state == "completed"
    assert not world.train()


# ---------------------------------------------------------------------------------------------- described and audited


def test_they_are_described_anew_after_those_that_the_closed_form_waits_for(world: World) -> None:
    world.add(8)
    world.add(3, role=EVALUATION)
    with world.context.registry.write() as session:
        descriptions.note(session, [*world.survivors, *world.held_out], None)
    kind = world.context.backbone.kind.name
    assert [words for words in findings(world) if "described anew" in words] == [
        "closed-form tier is without 8 samples, which wait to be described anew",
        "evaluation waits for 3 samples to be described anew",
    ]
    redescriber = Redescriber(world.context)
    assert redescriber.portion() == 8
    assert start(world).summary() is not None
    with world.context.registry.read() as session:
        assert not descriptions.is_complete(session, kind, role=EVALUATION)
    assert redescriber.portion() == 3
    with world.context.registry.read() as session:
        assert descriptions.is_complete(session, kind, role=EVALUATION)


def test_one_that_cannot_be_read_does_not_keep_others_from_being_described(world: World) -> None:
    world.add(1)
    world.add(2, role=EVALUATION)
    (unreadable,) = world.survivors
    with world.context.registry.write() as session:
        descriptions.note(session, [*world.survivors, *world.held_out], None)
    world.context.store.delete(samples.object_name(unreadable))
    redescriber = Redescriber(world.context)
    assert [redescriber.portion(), redescriber.portion()] == [0, 2]


def test_an_audit_finds_their_damaged_files_and_prompts_that_have_seen_one(world: World) -> None:
    world.add(8)
    one, other, _ = world.add(3, role=EVALUATION)
    world.settle()
    assert findings(world) == []
    world.context.store.delete(samples.object_name(one.id))
    with world.context.registry.write() as session:
        row = {"prompt_key": world.serving_keys()[0], "sample_id": other.id}
        session.execute(sa.insert(PromptMemberRow).values(**row))
    assert findings(world) == [
        f"sample {one.id} has no file in the store",
        f"sample {other.id} is of the evaluation set, and a prompt has seen it",
    ]

"""Samples with descriptors of another kind are described anew: exactly, resumably, the tier answering meanwhile with
those that are done; routing and prompts keep every byte."""

import logging
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.choice import constants, digest_of
from models.closed_form import accumulate
from models.descriptor_kind import QUICK
from models.embedding import describe
from service.core import redescribe, sample_file
from service.core.audit import Scope, audit
from service.core.redescribe import Redescriber
from service.errors import Misconfigured
from service.registry import descriptions, samples
from service.registry.records import Sample
from service.serving.closed_form import ClosedFormTier
from service.serving.engine import Answer, Engine, Query
from tests.replicas import known, live_replicas, start
from tests.world import Killed, MakeWorld, World, opened

EARLIER = Path(__file__).parents[1] / "earlier" / "quick-descriptors.tar.xz"

# What the release that wrote it said of its closed form and its partition, and the keys of its two prompts.
CLOSED_FORM = "02f4cfb21d510f9e819e7a2ed217415ed74c0e750bb71575a49fc26061cf4cdb"
PARTITION = "177df261b9e7875aace42028125c93958331406e639da40e06b031b19de8abc1"
KEYS = [
    "1fa70e6337d3c76e23b25290b46a3e94580785eb8b2faa04d725549fb391c36d",
    "ba345705aa3da04ed98019c52fc879a3ba5a1d58263339c2c349c14eceb31d89",
]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A data folder of an earlier release: quick descriptors as float32, and a registry that says nothing of kinds."""
    with tarfile.open(EARLIER) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def settle(world: World) -> int:
    """Describe until nothing is left; how many samples."""
    redescriber, count = Redescriber(world.context), 0
    while done := redescriber.portion():
        count += done
    return count


def contents(world: World, sample: Sample) -> sample_file.Contents:
    return sample_file.decode(world.context.store.get(samples.object_name(sample.id)), digest=sample.digest)


def implied(world: World) -> tuple[str, int]:
    """Digest and size of the tier that the pixels of those survivors imply that are described."""
    backbone = world.context.backbone
    with world.context.registry.read() as session:
        waiting = {one.id for one in descriptions.missing(session, backbone.kind.name)}
    found = [sample for sample in world.samples() if sample.id not in waiting]
    resized = [backbone.preprocessing.resize(contents(world, sample).pixels) for sample in found]
    chunks = [(describe(backbone, resized).descriptors, [sample.label for sample in found])] if found else []
    sums = accumulate(backbone.descriptor_width, chunks, kind=backbone.kind.name)
    return digest_of(sums.digest(), constants(world.context.closed_form)), len(found)


def findings(world: World) -> list[str]:
    return [f"{found.subject} {found.reason}" for found in audit(world.context, Scope())]


def tier_of(answer: object) -> str:
    assert isinstance(answer, Answer), answer
    return answer.tier


# ---------------------------------------------------------------------------------------------- an earlier release's


def test_with_quick_features_a_folder_of_an_earlier_release_goes_on_as_it_was(earlier: Path) -> None:
    with opened(earlier, closed_form={"features": "quick"}) as world:
        files = {name: world.context.store.get(name) for name in world.objects()}
        assert settle(world) == 23
        tier = start(world)
        taken = tier.accumulated()
        assert taken is not None
        assert (taken[1].digest(), taken[1].samples) == (CLOSED_FORM, 23)
        assert {name: world.context.store.get(name) for name in world.objects()} == files
        assert findings(world) == []


def test_a_folder_of_an_earlier_release_is_described_anew(earlier: Path) -> None:
    """While it is, the tier knows those that are done; at the end it is what the pixels imply, and nothing else has
    changed."""
    with opened(earlier) as world:
        before = {sample.id: contents(world, sample) for sample in world.samples()}
        assert {found.kind for found in before.values()} == {QUICK}
        tier = ClosedFormTier(world.context, name="one")
        assert tier.start() is not None
        engine, picture = Engine(world.context, tier), world.new_sample()
        asked = Query(world.context.backbone.preprocessing.resize(picture.pixels), picture.digest)
        assert tier_of(engine.run([asked])[0]) == "prompt"
        assert "closed-form tier is without 23 samples, which wait to be described anew" in findings(world)
        assert Redescriber(world.context).portion() == redescribe.PORTION
        assert known(tier) == implied(world)
        assert implied(world)[1] == redescribe.PORTION
        assert tier_of(engine.run([asked])[0]) in ("fused", "closed_form")
        assert settle(world) == 23 - redescribe.PORTION
        tier.keep()
        assert known(tier) == implied(world)
        assert tier_of(engine.run([asked])[0]) in ("fused", "closed_form")
        for sample in world.samples():
            after = contents(world, sample)
            assert after.kind == world.context.backbone.kind.name
            assert after.embedding.tobytes() == before[sample.id].embedding.tobytes()
            assert np.array_equal(after.pixels, before[sample.id].pixels)
        assert world.context.partition.digest == PARTITION
        assert sorted(world.serving_keys()) == KEYS
        assert world.reconcile() == 0  # nothing to be trained
        assert findings(world) == []


def test_who_is_erased_before_being_described_anew_is_gone_and_who_is_erased_after_is_subtracted(earlier: Path) -> None:
    with opened(earlier) as world:
        one, two, *_ = world.samples()
        world.erase(one.id)
        assert settle(world) == 22
        tier = ClosedFormTier(world.context, name="one")
        tier.keep()
        assert known(tier) == implied(world)
        world.erase(two.id)
        assert tier.current() is not None  # not lost: its file says what the tier has in
        assert known(tier) == implied(world)
        tier.keep()
        world.settle()
        assert not {samples.object_name(erased.id) for erased in (one, two)} & world.objects()
        assert findings(world) == []


# --------------------------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize("changed", [{"closed_form": {"features": "richest"}}, {"closed_form": {"features": "quick"}}])
def test_other_features_make_it_that_of_a_service_that_always_had_them(
    make_world: MakeWorld, changed: dict[str, object]
) -> None:
    world = make_world()
    world.add(20)
    tier = start(world)
    tier.leave()
    world.restart(**changed)
    tier = start(world, "two")
    assert known(tier) == implied(world)
    new = world.add(3)  # of the wanted kind already
    assert known(tier) == implied(world)
    assert implied(world)[1] == 3
    assert settle(world) == 20
    tier.keep()
    assert known(tier) == implied(world)
    assert contents(world, new[0]).kind == world.context.backbone.kind.name


def test_without_flips_in_training_descriptors_see_no_mirror_images(world: World) -> None:
    world.add(4)
    world.restart(training={"flip": False})
    assert world.context.backbone.kind.name == "rich/1"
    assert settle(world) == 4
    tier = start(world)
    assert known(tier) == implied(world)


def test_a_worker_with_settings_that_are_no_longer_wanted_describes_nobody(world: World) -> None:
    world.add(3)
    outdated = world.context
    world.restart(closed_form={"features": "quick"})
    world.context, current = replace(outdated, registry=world.context.registry), world.context
    with world.context.registry.write() as session:
        descriptions.note(session, list(world.survivors), None)
    with pytest.raises(Misconfigured, match=r"other settings \(closed_form.features or training.flip\)"):
        Redescriber(world.context).portion()
    world.context = current


# ------------------------------------------------------------------------------------------------------------ failures


def wait_to_be_described(world: World, count: int) -> list[Sample]:
    """So many samples of which the registry does not know the kind, as after an upgrade, with files of another."""
    world.add(count)
    tier = start(world)
    tier.leave()
    world.restart(closed_form={"features": "richest"})
    return list(world.survivors.values())


@pytest.mark.parametrize("step", ["before the files", "after the files"])
def test_a_worker_that_is_killed_loses_the_portion_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    wait_to_be_described(world, 20)
    put_many = world.context.store.put_many

    def die(items: list[tuple[str, bytes]]) -> None:
        if step == "after the files":
            put_many(items)
        raise Killed

    monkeypatch.setattr(world.context.store, "put_many", die)
    with pytest.raises(Killed):
        Redescriber(world.context).portion()
    monkeypatch.undo()
    tier = start(world, "two")
    assert known(tier) == implied(world)
    assert implied(world)[1] == 0
    assert settle(world) == 20
    tier.keep()
    assert known(tier) == implied(world)
    world.settle()
    tier.report()
    assert findings(world) == []


def test_who_is_erased_while_being_described_does_not_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, *_ = wait_to_be_described(world, 8)

    def erased_meanwhile(*given: object) -> object:
        world.erase(victim.id)
        world.settle()
        return describe(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(redescribe, "describe", erased_meanwhile)
    assert Redescriber(world.context).portion() == 7
    assert samples.object_name(victim.id) not in world.objects()
    world.settle()
    world.check()


def test_a_sample_that_cannot_be_read_is_named_and_the_others_are_described(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, *_ = wait_to_be_described(world, 8)
    name = samples.object_name(victim.id)
    whole = world.context.store.get(name)
    world.context.store.put(name, whole[:-1])
    redescriber = Redescriber(world.context)
    with caplog.at_level(logging.ERROR):
        assert [redescriber.portion() for _ in range(3)] == [7, 0, 0]
    assert caplog.text.count(f"sample {victim.id} cannot be described anew") == 1
    tier = start(world, "two")
    assert known(tier) == implied(world)
    assert implied(world)[1] == 7
    world.context.store.put(name, whole)
    monkeypatch.setattr(redescribe, "PATIENCE", 0.0)
    assert settle(world) == 1
    assert known(tier) == implied(world)
    assert implied(world)[1] == 8


def test_two_workers_leave_what_one_would(world: World) -> None:
    wait_to_be_described(world, 20)
    one, two = Redescriber(world.context), Redescriber(world.context)
    assert one.work(until=lambda: False) is False
    assert two.portion() == 0
    assert two.work(until=lambda: True) is True  # it has not looked
    tier = start(world, "two")
    assert known(tier) == implied(world)
    assert set(live_replicas(world)) == {"two"}


def test_removals_among_those_that_wait_and_those_that_are_done_cost_the_tier_nothing(world: World) -> None:
    """It is brought up to date by the feed, and not lost: it never reads the survivors again."""
    wait_to_be_described(world, 40)
    tier = start(world, "two")
    redescriber = Redescriber(world.context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClosedFormTier, "_lose", lambda self, failure: pytest.fail(str(failure)))
        for _ in range(2):
            assert redescriber.portion() == redescribe.PORTION
            with world.context.registry.read() as session:
                waiting = [one.id for one in descriptions.missing(session, world.context.backbone.kind.name)]
            done = [one for one in world.survivors if one not in waiting]
            world.erase(waiting[0])
            world.erase(done[0])
            world.add(1)
            assert known(tier) == implied(world)
        settle(world)
        assert known(tier) == implied(world)
    assert implied(world)[1] == 38


def test_what_another_worker_has_described_meanwhile_keeps_its_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on other processors round otherwise, and replicas have added what the first one wrote."""
    wait_to_be_described(world, 3)
    tier, first, second = start(world, "two"), Redescriber(world.context), Redescriber(world.context)

    def overtaken(*given: object) -> object:
        monkeypatch.undo()
        assert first.portion() == 3
        found = describe(*given)  # type: ignore[arg-type]
        return found._replace(descriptors=np.roll(found.descriptors, 1, axis=1))

    monkeypatch.setattr(redescribe, "describe", overtaken)
    assert second.portion() == 0
    assert known(tier) == implied(world)
    world.settle()
    tier.report()
    assert findings(world) == []


def test_a_sample_that_is_described_anew_though_a_replica_knows_it_makes_the_replica_start_again(world: World) -> None:
    world.add(5)
    tier = start(world)
    sample, *_ = world.survivors.values()
    with world.context.registry.write() as session:
        descriptions.note(session, [sample.id], None)  # as a replica does that cannot read it
    assert settle(world) == 1
    assert known(tier) is None
    tier.keep()
    assert known(tier) == implied(world)
    assert implied(world)[1] == 5

"""An audit finds what is wrong, names exactly that, and finds nothing where nothing is wrong."""

import random

import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from service.cli import auditor
from service.cli.failures import Misused
from service.core.audit import Scope, audit
from service.core.finding import Finding
from service.core.opening import open_context
from service.core.tidy import UNRECORDED_KEPT
from service.errors import Misconfigured
from service.registry import prompts, samples
from service.registry.tables import ClusterRow, ErasureSampleRow, PromptMemberRow, PromptRow, SampleRow
from tests.world import World, settings, sqlite_only

EVERYTHING = Scope(embeddings=True, rebuild_all=True)


def findings(world: World, scope: Scope = EVERYTHING) -> list[Finding]:
    return list(audit(world.context, scope))


def the_finding(world: World, scope: Scope = EVERYTHING) -> Finding:
    (finding,) = findings(world, scope)
    return finding


@pytest.fixture
def used(world: World) -> World:
    """A service with a past: forty samples, ten of them forgotten."""
    world.add(40)
    world.settle()
    for sample_id in random.Random(1).sample(list(world.survivors), 10):
        world.erase(sample_id)
    world.settle()
    return world


def test_a_service_with_a_past_has_no_differences(used: World) -> None:
    assert findings(used) == []


def test_a_service_at_work_is_unfinished_and_not_wrong(used: World) -> None:
    used.add(1)
    assert {finding.reason for finding in findings(used)} == {"is not finished: it waits for its plan or its training"}


def test_a_flipped_byte_of_an_artifact_is_named(used: World) -> None:
    with used.context.registry.read() as session:
        prompt = prompts.get(session, used.serving_keys())[used.serving_keys()[0]]
    data = bytearray(used.context.store.get(prompt.object_name))
    data[-1] ^= 1
    used.context.store.put(prompt.object_name, bytes(data))
    finding = the_finding(used)
    assert f"prompt {prompt.key}, which is damaged" in finding.reason


def test_a_missing_file_is_named(used: World) -> None:
    lost = next(iter(used.survivors))
    used.context.store.delete(samples.object_name(lost))
    found = findings(used)
    assert Finding(f"sample {lost}", "has no file in the store") in found
    assert all("cannot be rebuilt: see its samples" in f.reason for f in found if f.subject != f"sample {lost}")


def test_a_row_brought_back_by_hand_is_named(used: World) -> None:
    with used.context.registry.write() as session:
        risen = session.execute(sa.select(ErasureSampleRow.sample_id).limit(1)).scalar_one()
        pattern = session.execute(sa.select(SampleRow).limit(1)).scalar_one()
        values = {c.key: getattr(pattern, c.key) for c in SampleRow.__table__.columns if c.key not in ("seq", "id")}
        session.execute(sa.insert(SampleRow).values(id=risen, **values))
    found = findings(used)
    assert Finding(f"sample {risen}", "was erased, and is in the registry again") in found


def test_books_that_disagree_with_the_survivors_are_named(used: World) -> None:
    cluster = used.clusters()[0]
    with used.context.registry.write() as session:
        session.execute(sa.update(ClusterRow).where(ClusterRow.id == cluster.id).values(samples=cluster.samples + 1))
    reason = f"counts {cluster.samples + 1} samples, and holds {cluster.samples}"
    assert the_finding(used) == Finding(f"cluster {cluster.id}", reason)


def test_a_prompt_that_training_does_not_give_is_named(used: World) -> None:
    with used.context.registry.write() as session:
        session.execute(sa.update(PromptRow).values(fingerprint={"torch": "another"}))
    assert {finding.comparable for finding in findings(used)} == {False}


def test_a_prompt_that_has_seen_an_erased_sample_is_named(used: World) -> None:
    key = used.serving_keys()[0]
    with used.context.registry.write() as session:
        erased = session.execute(sa.select(ErasureSampleRow.sample_id).limit(1)).scalar_one()
        session.execute(sa.insert(PromptMemberRow).values(prompt_key=key, sample_id=erased))
    assert the_finding(used) == Finding(f"prompt {key}", f"has seen sample {erased}, which is not in the registry")


def test_an_orphan_and_a_message_that_mention_a_sample_are_named(used: World) -> None:
    name = "samples/00000000-0000-7000-8000-000000000000.safetensors"
    used.context.store.put(name, b"left behind")
    with used.context.registry.read() as session:
        erased = session.execute(sa.select(ErasureSampleRow.sample_id).limit(1)).scalar_one()
    (used.folder / "queue").mkdir()
    (used.folder / "queue" / "1.oubli.msg").write_text(f'["{erased}"]')
    assert findings(used) == [
        Finding(f"object {name}", "belongs to nothing in the registry"),
        Finding("message 1.oubli.msg", f"mentions erased sample {erased}"),
    ]


def test_an_object_that_was_just_stored_is_no_difference_until_it_is_old(used: World) -> None:
    name = f"samples/{uuid7()}.safetensors"  # as intake leaves it that is killed before it has recorded the sample
    used.context.store.put(name, b"left behind")
    assert {finding.comparable for finding in findings(used)} == {False}
    used.time.advance(UNRECORDED_KEPT.total_seconds() + 3600)
    assert the_finding(used) == Finding(f"object {name}", "belongs to nothing in the registry")


def test_an_erased_samples_object_is_a_difference_however_young(used: World) -> None:
    (sample,) = used.add(1)
    used.erase(sample.id)
    used.settle()
    name = samples.object_name(sample.id)
    used.context.store.put(name, b"come back")
    assert the_finding(used) == Finding(f"object {name}", "belongs to nothing in the registry")


@sqlite_only
def test_an_auditor_with_other_settings_is_refused_and_changes_nothing(used: World, database_url: str) -> None:
    with pytest.raises(Misconfigured, match=r"other settings \(partition\)"):
        open_context(settings(used.folder, database_url, partition={"cap": 20}), read_only=True)
    assert findings(used) == []


# ------------------------------------------------------------------------------------- what `--rebuild` may ask for


def scope_of(world: World, text: str) -> Scope:
    return auditor.scope_of(world.context, embeddings=False, rebuild=auditor.parse_rebuild(text))


@sqlite_only
def test_what_to_rebuild_is_all_a_number_or_a_cluster_that_serves(used: World) -> None:
    assert scope_of(used, "all") == Scope(rebuild_all=True)
    assert scope_of(used, "0") == Scope()
    assert scope_of(used, "12") == Scope(rebuild_count=12)
    serving = used.clusters()[0].id
    assert scope_of(used, serving) == scope_of(used, serving.upper()) == Scope(rebuild_cluster=serving)


@sqlite_only
def test_a_cluster_of_which_nothing_can_be_rebuilt_is_refused(planned: World) -> None:
    """It would be reported as "0 differences"."""
    with pytest.raises(Misused, match="there is no cluster"):
        scope_of(planned, str(uuid7()))
    (cluster,) = planned.clusters()
    with pytest.raises(Misused, match=f"cluster {cluster.id} serves no prompt"):
        scope_of(planned, cluster.id)
    with pytest.raises(Misused, match="neither `all`"):
        scope_of(planned, cluster.id[:8])

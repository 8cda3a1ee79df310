"""Files that are damaged, lost, restored from a backup or put there by a stranger.

Each ends as the survivors imply, or in words that say what to do; meanwhile nothing is served that the registry does
not stand behind.
"""

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.core.audit import Scope, audit
from service.core.tidy import tidy
from service.registry import prompts, samples
from service.serving.engine import Answer, Engine, Query
from service.serving.snapshot import take_snapshot
from tests.world import DAY, World, sqlite_only


def answer(world: World, engine: Engine, count: int = 24) -> list[Answer]:
    """Answers to pictures from all over the line, each by a prompt that is served."""
    resize = world.context.backbone.preprocessing.resize
    pictures = world.new_samples(count)
    answers = engine.run([Query(resize(picture.pixels), picture.digest) for picture in pictures])
    assert [type(found) for found in answers] == [Answer] * count
    assert {found.prompt for found in answers if isinstance(found, Answer)} <= set(world.serving_keys())
    return [found for found in answers if isinstance(found, Answer)]


def complaints(world: World) -> list[str]:
    """What an audit finds."""
    return [f"{finding.subject} {finding.reason}" for finding in audit(world.context, Scope())]


def artifact(world: World, key: str) -> str:
    """The object that a served prompt is in."""
    with world.context.registry.read() as session:
        return prompts.get(session, [key])[key].object_name


# -------------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "damage",
    [
        lambda own, other: own[:-1],
        lambda own, other: own[:8],
        lambda own, other: other,
        lambda own, other: b"\x80\x04N.",
    ],
    ids=["cut", "header cut", "another's", "a pickle"],
)
def test_a_damaged_artifact_answers_nobody_while_others_do_and_is_built_again(
    idle: World, damage: Callable[[bytes, bytes], bytes]
) -> None:
    key, other = idle.serving_keys()[:2]
    store, name = idle.context.store, artifact(idle, key)
    store.put(name, damage(store.get(name), store.get(artifact(idle, other))))
    assert len(complaints(idle)) == 1
    assert f"prompt {key}, which is damaged" in complaints(idle)[0]
    engine = Engine(idle.context)
    assert key not in {found.prompt for found in answer(idle, engine)}
    idle.settle()
    idle.check()
    assert key in engine.refresh().keys
    assert complaints(idle) == []


@pytest.mark.parametrize("which", ["sample", "prompt"])
def test_a_file_that_the_disk_cannot_read_is_named_and_stops_nobody_else(
    idle: World, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    sample = idle.samples()[0]
    cluster = idle.cluster_of(sample)
    lost = samples.object_name(sample.id) if which == "sample" else artifact(idle, cluster.serving_key or "")
    read = idle.context.store.get

    def get(name: str) -> bytes:
        if name == lost:
            raise OSError(errno.EIO, "Input/output error")
        return read(name)

    monkeypatch.setattr(idle.context.store, "get", get)
    assert any(which in complaint for complaint in complaints(idle))
    answer(idle, Engine(idle.context))


def test_a_sample_cut_short_stops_its_own_cluster_alone_and_is_named_with_its_remedy(idle: World) -> None:
    (newest,) = idle.add(1)
    path = idle.file_of(samples.object_name(newest.id))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    idle.add(20)
    idle.reconcile()
    while idle.train():
        pass
    failed = idle.cluster_of(newest)
    assert failed.desired_key not in idle.serving_keys()
    assert f"Sample {newest.id} cannot be trained on: it cannot be read" in (failed.failure or "")
    assert "Restore its file from a backup, or erase the sample." in (failed.failure or "")
    assert [cluster.id for cluster in idle.clusters() if cluster.differs] == [failed.id]
    assert any(f"sample {newest.id} is damaged" in complaint for complaint in complaints(idle))
    answer(idle, Engine(idle.context))
    path.write_bytes(whole)
    idle.settle()
    idle.check()


# --------------------------------------------------------------------------------------------------- registry and store


def test_a_prompt_without_its_file_is_named_answers_nobody_and_is_built_again(idle: World) -> None:
    key = idle.serving_keys()[0]
    idle.context.store.delete(artifact(idle, key))
    assert any(f"prompt {key}, which has no file in the store" in complaint for complaint in complaints(idle))
    assert key not in {found.prompt for found in answer(idle, Engine(idle.context))}
    idle.settle()
    idle.check()


def test_an_erasure_whose_bytes_somebody_has_destroyed_before_is_completed(idle: World) -> None:
    sample = idle.samples()[0]
    idle.context.store.delete(samples.object_name(sample.id))
    idle.context.store.delete(artifact(idle, idle.cluster_of(sample).serving_key or ""))
    idle.erase(sample.id)
    idle.settle()
    idle.check()


@sqlite_only
def test_a_registry_restored_from_before_an_erasure_serves_nothing_that_knew_the_sample(
    idle: World, tmp_path: Path
) -> None:
    victim = idle.samples()[0]
    known_by = idle.cluster_of(victim).serving_key
    live, backup = idle.folder / "registry.db", tmp_path / "backup.db"
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    idle.erase(victim.id)
    idle.settle()
    idle.close()
    backup.replace(live)
    idle.restart()
    assert known_by in idle.serving_keys()  # as the old registry has it
    assert known_by not in take_snapshot(idle.context, None).keys
    assert known_by not in idle.serving_keys()
    idle.reconcile()
    while idle.train():
        pass
    failure = idle.cluster_of(victim).failure or ""
    assert f"Sample {victim.id} cannot be trained on: its file is missing" in failure
    assert "erase the sample" in failure
    idle.erase(victim.id)
    idle.time.advance(2 * DAY)
    idle.settle()
    tidy(idle.context)  # what the old registry does not know of
    idle.check()


@pytest.mark.parametrize("name", ["samples/notes.txt", "samples/ab/notes.txt", "prompts/ab/.nfs0001"])
def test_a_stranger_s_file_among_the_objects_does_not_end_tidying(idle: World, name: str) -> None:
    path = idle.folder / "objects" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"put here by hand")
    tidy(idle.context)

"""Every partition is exact under deletion, and can be exchanged for any other on the same data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.core.audit import Scope, audit
from service.registry.records import Sample
from tests.layouts import KINDS
from tests.world import MakeWorld, opened


@pytest.fixture
def partition(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Settings of a kind; `pinned` gets a file of public centroids."""

    def chosen(kind: str) -> dict[str, Any]:
        if kind != "pinned":
            return KINDS[kind]
        (tmp_path / "public").mkdir(exist_ok=True)
        with opened(tmp_path / "public") as public:
            vectors = [new_sample.embedding for new_sample in public.new_samples(5)]
        np.save(tmp_path / "centroids.npy", np.stack(vectors))
        return {"kind": "pinned", "centroids": tmp_path / "centroids.npy"}

    return chosen


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_what_the_survivors_alone_would_have_made(
    make_world: MakeWorld, partition: Callable[[str], dict[str, Any]], kind: str
) -> None:
    world = make_world(partition=partition(kind))
    world.add(30)
    world.add(6, owner="bob")
    world.settle()
    world.check()
    assert len(world.clusters()) > 1
    for sample_id in list(world.survivors)[:12:3]:
        world.erase(sample_id)
    world.settle()
    world.erase_owner("bob")
    world.add(3)
    world.settle()
    world.check()
    assert list(audit(world.context, Scope(embeddings=True, rebuild_all=True))) == []
    world.erase(*world.survivors)
    world.settle()
    world.check()
    assert world.clusters() == []


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", ["tree", "anchors"])
def test_other_settings_on_the_same_data_are_a_move(
    make_world: MakeWorld, partition: Callable[[str], dict[str, Any]], before: str, after: str
) -> None:
    world = make_world(partition=partition(before))
    world.add(34)
    world.settle()
    world.restart(partition=partition(after))
    world.settle()
    world.check()
    world.restart(partition=partition(before))
    world.settle()
    world.check()


def test_any_number_of_copies_of_one_picture_is_welcome_where_no_cap_is_promised(make_world: MakeWorld) -> None:
    world = make_world(partition=KINDS["random"])
    results = world.take_in([world.new_sample()] * 40)
    assert all(isinstance(result, Sample) for result in results)
    world.settle()
    world.check()
    assert [cluster.samples for cluster in world.clusters()] == [40]

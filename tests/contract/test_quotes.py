"""What an erasure would cost is what it then costs."""

import pytest
from uuid6 import uuid7

from service.core import erasure
from service.core.erasure import Quote
from service.errors import NotFound
from service.registry import prompts
from tests.world import World


def work_done(world: World) -> int:
    """Train all there is; the sample-epochs it took."""
    before = set(world.serving_keys())
    world.settle()
    with world.context.registry.read() as session:
        built = prompts.get(session, set(world.serving_keys()) - before)
    return sum(prompt.sample_epochs for prompt in built.values())


def test_a_quote_is_what_is_then_retrained(idle: World) -> None:
    for picked in (lambda ids: ids[:1], lambda ids: ids[::4], lambda ids: ids[:9]):
        ids = picked(list(idle.survivors))
        before = {cluster.id for cluster in idle.clusters()}
        quoted = erasure.quote(idle.context, sample_ids=ids)
        assert idle.clusters()  # a quote changes nothing
        found = idle.erase(*ids)
        assert work_done(idle) == quoted.sample_epochs
        assert {touched.cluster for touched in idle.erasure(found.id).clusters} & before <= set(quoted.clusters)
        assert quoted.samples == len(ids)
        assert quoted.full_sample_epochs == len(idle.survivors) * idle.context.training.epochs
        assert quoted.seconds is not None


def test_a_quote_for_an_owner_changes_nothing(idle: World) -> None:
    idle.add(3, owner="bob")
    idle.settle()
    quoted = erasure.quote(idle.context, owner="bob")
    idle.check()
    assert quoted.samples == 3
    idle.erase_owner("bob")
    assert work_done(idle) == quoted.sample_epochs


def test_a_quote_before_any_training_knows_no_duration(world: World) -> None:
    (sample,) = world.add(1)
    assert erasure.quote(world.context, sample_ids=[sample.id]) == Quote(1, (sample.cluster,), 0, None, 0)


def test_nothing_is_quoted_for_what_is_not_held(idle: World) -> None:
    unknown: list[dict[str, object]] = [{"owner": "nobody"}, {"sample_ids": [str(uuid7())]}, {"sample_ids": []}]
    for what in unknown:
        with pytest.raises(NotFound):
            erasure.quote(idle.context, **what)  # type: ignore[arg-type]

"""No API key asks for erasures, or contributes images, without measure: 429 in words, and nothing is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from uuid6 import uuid7

from service.core import budgets, erasure, intake
from service.core.budgets import ERASURES, IMAGES
from service.errors import OverBudget
from service.registry import keys
from service.settings import MAX_BATCH
from tests.front import Front, picture, served
from tests.world import MakeWorld, World, accepted

KEY, OTHER = str(uuid7()), str(uuid7())


def spend(world: World, key: str | None, what: str, amount: int) -> int | None:
    """Seconds to wait, if it was too much."""
    try:
        with world.context.registry.write() as session:
            budgets.spend(world.context, session, key, what, amount)
    except OverBudget as refusal:
        return refusal.retry_after
    return None


@pytest.mark.sql
def test_an_hour_s_worth_comes_back_within_the_hour(make_world: MakeWorld) -> None:
    world = make_world(erasure={"per_hour": 60})
    assert spend(world, KEY, ERASURES, 60) is None
    assert spend(world, KEY, ERASURES, 1) == 60
    assert spend(world, OTHER, ERASURES, 1) is None  # each key its own
    assert spend(world, KEY, IMAGES, 1) is None  # and each thing
    world.time.advance(59)
    assert spend(world, KEY, ERASURES, 1) == 1
    world.time.advance(1)
    assert spend(world, KEY, ERASURES, 1) is None
    assert spend(world, KEY, ERASURES, 5) == 300
    world.time.advance(3600)
    assert spend(world, KEY, ERASURES, 60) is None


def test_a_clock_that_was_set_back_gives_nothing_back_and_takes_nothing(make_world: MakeWorld) -> None:
    world = make_world(erasure={"per_hour": 60})
    spend(world, KEY, ERASURES, 60)
    world.time.advance(-86_400)
    assert spend(world, KEY, ERASURES, 1) == 60


@pytest.mark.parametrize(("per_hour", "key"), [(0, KEY), (60, None)], ids=["no limit", "no keys"])
def test_there_may_be_no_budget(make_world: MakeWorld, per_hour: int, key: str | None) -> None:
    world = make_world(erasure={"per_hour": per_hour})
    assert spend(world, key, ERASURES, 10_000) is None


@pytest.mark.sql
def test_requests_that_come_together_do_not_spend_the_same_twice(make_world: MakeWorld) -> None:
    world = make_world(erasure={"per_hour": 10})
    with ThreadPoolExecutor(8) as threads:
        refused = list(threads.map(lambda _: spend(world, KEY, ERASURES, 1), range(16)))
    assert refused.count(None) == 10


@pytest.mark.sql
def test_an_erasure_over_budget_is_not_accepted_and_one_that_runs_already_costs_nothing(make_world: MakeWorld) -> None:
    world = make_world(erasure={"per_hour": 2})
    one, two, three = world.add(3)
    for sample in (one, one, one, two):
        erasure.erase_sample(world.context, sample.id, key_id=KEY)
    for refused in (
        lambda: erasure.erase_sample(world.context, three.id, key_id=KEY),
        lambda: erasure.erase_samples(world.context, [three.id], key_id=KEY),
        lambda: erasure.erase_owner(world.context, "ann", key_id=KEY),
    ):
        with pytest.raises(OverBudget, match="2 erasures an hour"):
            refused()
    assert [sample.id for sample in world.samples()] == [three.id]
    erasure.erase_owner(world.context, "ann", key_id=OTHER)
    assert world.samples() == []


@pytest.mark.sql
def test_images_over_budget_leave_nothing_behind(make_world: MakeWorld) -> None:
    world = make_world(intake={"per_hour": MAX_BATCH})
    first = accepted(intake.take_in(world.context, world.new_samples(1), key_id=KEY)[0])  # type: ignore[arg-type]
    spend(world, KEY, IMAGES, MAX_BATCH - 1)
    with pytest.raises(OverBudget):
        intake.take_in(world.context, world.new_samples(2), key_id=KEY)
    assert [sample.id for sample in world.samples()] == [first.id]
    assert world.objects() == {f"samples/{first.id}.safetensors"}


# ------------------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def frugal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    budget = {"erasure": {"per_hour": 2}, "intake": {"per_hour": MAX_BATCH}}
    with served(tmp_path_factory.mktemp("frugal"), **budget) as front:
        yield front


def contribute(client: httpx.Client, image: bytes, **more: str) -> httpx.Response:
    return client.post(
        "/samples", files={"image": ("one.png", image)}, data={"label": "one", "owner": "ann"}, headers=more
    )


def test_over_http_it_is_429_and_says_when_to_come_again(frugal: Front) -> None:
    with frugal.client(frugal.make_key("samples", "erase", "read")) as client, frugal.client() as admin:
        ids = [contribute(client, picture(n)).json()["id"] for n in range(3)]
        assert [client.delete(f"/samples/{one}").status_code for one in ids[:2]] == [202, 202]
        for said in (
            client.delete(f"/samples/{ids[2]}"),
            client.delete("/owners/ann"),
            client.post("/erasures", json={"samples": [ids[2]]}),
        ):
            assert (said.status_code, said.json()["title"]) == (429, "Too many requests")
            assert 1700 <= int(said.headers["Retry-After"]) <= 1800
        assert client.get(f"/samples/{ids[2]}").status_code == 200
        assert client.post("/erasures", json={"samples": [ids[2]], "validate_only": True}).status_code == 200
        assert admin.delete(f"/samples/{ids[2]}").status_code == 202


def test_over_http_images_are_refused_before_they_are_decoded_and_a_repeated_request_is_answered(
    frugal: Front,
) -> None:
    with frugal.client(frugal.make_key("samples")) as client:
        first = contribute(client, picture(), **{"Idempotency-Key": "once"})
        files = [("images", (f"{n}.png", b"no picture")) for n in range(MAX_BATCH)]
        said = [{"label": "one", "owner": "ann"}] * MAX_BATCH
        refused = client.post("/samples/batch", files=files, data={"metadata": json.dumps(said)})
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        with frugal.registry.write() as session:
            (used,) = (one for one in keys.every(session) if one.scopes == ("samples",))
            budgets.spend(frugal.app.state.service.context, session, used.id, IMAGES, MAX_BATCH - 1)
        assert contribute(client, picture()).status_code == 429
        again = contribute(client, picture(), **{"Idempotency-Key": "once"})
    assert (again.status_code, again.json()) == (201, first.json())

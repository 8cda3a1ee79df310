"""Another environment: prompts are kept or built again, by policy; one in which bits do not repeat is refused."""

from typing import Any

import pytest
import torch

from models import determinism
from service.core import environment
from service.core.audit import Scope, audit
from service.errors import Misconfigured
from service.registry import prompts
from service.registry.records import Prompt
from tests.world import MakeWorld, World, sqlite_only


def built(world: World) -> dict[str, Prompt]:
    with world.context.registry.read() as session:
        return prompts.get(session, world.serving_keys())


@pytest.fixture
def moved(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """A service whose prompts were built by an older PyTorch. Its workers build again what others have built."""
    world = make_world(training={"on_new_environment": "rebuild"})
    present = determinism.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(determinism, "fingerprint", lambda **given: {**present(**given), "torch": "1.0"})
        world.add(30)
        world.settle()
    return world


def test_kept_prompts_are_served_and_an_audit_says_that_they_cannot_be_compared(moved: World) -> None:
    moved.restart(training={"on_new_environment": "keep"})
    before = built(moved)
    assert environment.meet(moved.context) == 0
    moved.settle()
    moved.check()
    assert built(moved) == before
    found = list(audit(moved.context, Scope(rebuild_all=True)))
    assert {(finding.reason, finding.comparable) for finding in found} == {
        ("cannot be compared: trained in another environment", False)
    }


def test_rebuilt_prompts_are_served_until_their_successors_are_and_then_destroyed(moved: World) -> None:
    before = built(moved)
    assert environment.meet(moved.context) == len(before) > 1
    assert set(moved.serving_keys()) == set(before)
    assert moved.reconcile() == len(before)
    assert moved.train()
    assert set(moved.serving_keys()) == set(before)
    moved.settle()
    moved.check()
    after = built(moved)
    assert set(after) == set(before)
    assert {prompt.fingerprint["torch"] for prompt in after.values()} == {torch.__version__}
    assert not {prompt.object_name for prompt in before.values()} & moved.objects()
    assert environment.meet(moved.context) == 0
    assert list(audit(moved.context, Scope(rebuild_all=True))) == []


def test_what_is_erased_meanwhile_is_withdrawn_all_the_same(moved: World) -> None:
    environment.meet(moved.context)
    first = next(iter(moved.survivors.values()))
    cluster = moved.cluster_of(first)
    found = moved.erase(first.id)
    assert cluster.serving_key not in moved.serving_keys()
    moved.settle()
    moved.check()
    assert moved.erasure(found.id).state == "completed"
    assert {prompt.fingerprint["torch"] for prompt in built(moved).values()} == {torch.__version__}


@sqlite_only
def test_this_environment_repeats_to_the_bit(world: World) -> None:
    environment.prove(world.context)


@sqlite_only
def test_a_training_that_does_not_repeat_is_refused_at_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = iter(range(100))
    features = world.context.backbone.features_folded

    def drifting(images: Any) -> Any:
        return features(images) + 1e-3 * next(drift) * images.mean()

    monkeypatch.setattr(type(world.context.backbone), "features_folded", lambda self, images: drifting(images))
    with pytest.raises(Misconfigured, match="training does not repeat to the bit"):
        environment.prove(world.context)


@sqlite_only
def test_a_training_that_reads_what_nobody_has_written_is_refused_at_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = world.context.backbone.features_folded

    def careless(images: Any) -> Any:
        found = features(images)
        return torch.where(torch.empty_like(found).isnan(), found + 1.0, found)

    monkeypatch.setattr(type(world.context.backbone), "features_folded", lambda self, images: careless(images))
    with pytest.raises(Misconfigured, match="training does not repeat to the bit"):
        environment.prove(world.context)


@sqlite_only
def test_an_embedding_that_depends_on_its_neighbours_is_refused_at_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = world.context.backbone.features
    monkeypatch.setattr(type(world.context.backbone), "features", lambda self, images: features(images) + images.mean())
    with pytest.raises(Misconfigured, match="an embedding does not repeat to the bit"):
        environment.prove(world.context)


@sqlite_only
def test_a_layer_without_a_deterministic_implementation_is_refused_at_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, images: Any) -> Any:
        raise RuntimeError("x_cuda does not have a deterministic implementation")

    monkeypatch.setattr(type(world.context.backbone), "features_folded", refuse)
    with pytest.raises(Misconfigured, match=r"tiny cannot be trained on deterministically: x_cuda"):
        environment.prove(world.context)


@sqlite_only
def test_a_variable_that_keeps_bits_from_repeating_is_refused_in_words(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    with pytest.raises(Misconfigured, match=r"Bits would not repeat here\. OMP_DYNAMIC=true"):
        environment.configure(world.context.settings, threads=1)

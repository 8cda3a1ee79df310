"""Answers of the closed-form tier, alone and with the prompts: at once, of survivors only, by the policy."""

from collections.abc import Callable

import pytest

from models import fusion
from models.bank import PromptBank
from models.closed_form import ClosedFormHead
from models.embedding import describe
from service.core.intake import NewSample
from service.errors import ServiceError, Unavailable
from service.registry import layout_state, prompts, state
from service.serving import engine as engine_module
from service.serving.engine import Answer, Engine, Query
from tests.replicas import first, start
from tests.world import MakeWorld, World, accepted


@pytest.fixture
def untrained(world: World) -> World:
    """Three samples of a label each; no prompt is served."""
    world.take_in([world.new_sample(label) for label in ("cat", "dog", "fox")])
    return world


def query(world: World, new_sample: NewSample) -> Query:
    return Query(world.context.backbone.preprocessing.resize(new_sample.pixels), new_sample.digest)


def queries(world: World, count: int) -> list[Query]:
    return [query(world, new_sample) for new_sample in world.new_samples(count)]


def answered(results: list[Answer | ServiceError]) -> list[Answer]:
    assert [type(result) for result in results] == [Answer] * len(results), results
    return [result for result in results if isinstance(result, Answer)]


def labels(answer: Answer) -> list[str]:
    return sorted(label for label, _ in answer.scores)


def erase_label(world: World, label: str) -> None:
    world.erase(*[sample.id for sample in world.survivors.values() if sample.label == label])


def while_computing(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, what: Callable[[], object]) -> list[int]:
    """Do something between the look at what is served and the computation; how often it was computed."""
    compute, rounds = getattr(owner, method), []

    def hooked(*arguments: object) -> object:
        rounds.append(1)
        what()
        return compute(*arguments)

    monkeypatch.setattr(owner, method, hooked)
    return rounds


# ------------------------------------------------------------------------------------------------------------- at once


def test_the_first_sample_answers_at_once_and_after_the_last_nobody_does(world: World) -> None:
    engine = Engine(world.context, start(world))
    (asked,) = queries(world, 1)
    assert isinstance(engine.run([asked])[0], Unavailable)
    (sample,) = world.add(1)
    (answer,) = answered(engine.run([asked]))
    assert (answer.scores, answer.tier, answer.degraded) == (((sample.label, 1.0),), "closed_form", True)
    world.erase(sample.id)
    assert isinstance(engine.run([asked])[0], Unavailable)


def test_a_sample_is_recognised_before_anything_is_trained(untrained: World) -> None:
    new_samples = [untrained.new_sample(label) for label in ("gnu", "emu")]
    tier = start(untrained)
    untrained.take_in(new_samples)
    tier.keep()
    engine = Engine(untrained.context, tier)
    found = answered(engine.run([query(untrained, new_sample) for new_sample in new_samples]))
    assert [answer.scores[0][0] for answer in found] == ["gnu", "emu"]
    assert {answer.tier for answer in found} == {"closed_form"}


def test_a_prompt_and_the_closed_form_answer_as_one(idle: World) -> None:
    idle.take_in([idle.new_sample("fox")])  # known to the closed form at once, and to no prompt yet
    tier = start(idle)
    asked = queries(idle, 6)
    alone = answered(Engine(idle.context).run(asked))
    together = answered(Engine(idle.context, tier).run(asked))
    solved = tier.current()
    assert solved is not None
    assert solved.head is not None
    rows = describe(idle.context.backbone, [one.image for one in asked]).descriptors
    heard = solved.head.scores(rows, solved.choice.temperature)
    with idle.context.registry.read() as session:
        seen = {key: built.members for key, built in prompts.get(session, idle.serving_keys()).items()}
    for prompt, closed, answer in zip(alone, heard.tolist(), together, strict=True):
        said = dict(zip(solved.head.labels, closed, strict=True))
        assert prompt.prompt is not None
        share = fusion.weight(seen[prompt.prompt], solved.samples)
        assert dict(answer.scores) == pytest.approx(fusion.fuse(dict(prompt.scores), said, share=share), abs=1e-5)
        assert (answer.cluster, answer.prompt, answer.degraded) == (prompt.cluster, prompt.prompt, False)
        assert (prompt.tier, answer.tier) == ("prompt", "fused")
        assert (prompt.head, answer.head) == (None, "whole")
        assert labels(answer) == ["cat", "dog", "fox"]
        assert [score for _, score in answer.scores] == sorted((s for _, s in answer.scores), reverse=True)


# ------------------------------------------------------------------------------------------------------ survivors only


def test_who_is_erased_while_a_batch_is_computed_has_no_say_in_it(
    untrained: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked, foxes = Engine(untrained.context, start(untrained)), queries(untrained, 4), ["fox"]
    rounds = while_computing(
        monkeypatch, ClosedFormHead, "scores", lambda: foxes and erase_label(untrained, foxes.pop())
    )
    during = answered(engine.run(asked))
    assert len(rounds) == 2
    assert {tuple(labels(answer)) for answer in during} == {("cat", "dog")}
    assert during == answered(engine.run(asked))


def test_who_is_erased_during_the_forward_pass_of_other_clusters_has_no_say_either(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts that were asked are still served: only the closed form is computed again."""
    fox = accepted(idle.take_in([idle.new_sample("fox")])[0])
    idle.settle()
    home = idle.cluster_of(fox).id
    engine = Engine(idle.context, start(idle))
    asked = [one for one in queries(idle, 16) if answered(engine.run([one]))[0].cluster != home]
    assert asked
    foxes = ["fox"]
    passes = while_computing(monkeypatch, PromptBank, "probabilities", lambda: foxes and erase_label(idle, foxes.pop()))
    during = answered(engine.run(asked))
    assert len(passes) == 1
    assert {tuple(labels(answer)) for answer in during} == {("cat", "dog")}
    assert {answer.tier for answer in during} == {"fused"}


def test_who_comes_while_a_batch_is_computed_makes_nobody_wait(
    untrained: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(untrained.context, start(untrained))
    rounds = while_computing(monkeypatch, ClosedFormHead, "scores", lambda: untrained.add(1))
    answered(engine.run(queries(untrained, 2)))
    assert len(rounds) == 1


def test_a_tier_that_is_lost_while_a_batch_is_computed_leaves_it_to_the_prompts(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = start(idle)
    engine = Engine(idle.context, tier)
    asked = queries(idle, 6)
    expected = answered(Engine(idle.context).run(asked))
    while_computing(monkeypatch, ClosedFormHead, "scores", tier.leave)
    assert answered(engine.run(asked)) == expected
    assert {answer.tier for answer in expected} == {"prompt"}


def test_erasures_without_end_are_given_up_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(12)
    engine = Engine(world.context, start(world))
    monkeypatch.setattr(engine_module, "ROUNDS", 3)
    rounds = while_computing(monkeypatch, ClosedFormHead, "scores", lambda: world.erase(first(world).id))
    assert isinstance(engine.run(queries(world, 1))[0], Unavailable)
    assert len(rounds) == 3


# ---------------------------------------------------------------------------------------------------------- the policy


def withdraw_one(world: World, engine: Engine, asked: list[Query]) -> list[Answer]:
    """Erase a sample of the first image's cluster; the answers before."""
    before = answered(engine.run(asked))
    world.erase(next(sample.id for sample in world.samples() if sample.cluster == before[0].cluster))
    return before


@pytest.mark.parametrize("policy", ["closed_form", "nearest", "abstain"])
def test_images_of_a_cluster_without_a_prompt_are_answered_by_the_policy(make_world: MakeWorld, policy: str) -> None:
    world = make_world(serving={"withdrawn": policy})
    world.add(30)
    world.settle()
    engine, asked = Engine(world.context, start(world)), queries(world, 12)
    before = withdraw_one(world, engine, asked)
    gone = before[0]
    for old, new in zip(before, engine.run(asked), strict=True):
        if old.cluster != gone.cluster:
            assert isinstance(new, Answer)
            assert (new.cluster, new.prompt, new.tier, new.degraded) == (old.cluster, old.prompt, "fused", False)
        elif policy == "abstain":
            assert isinstance(new, Unavailable)
        elif policy == "nearest":
            assert isinstance(new, Answer)
            assert (new.tier, new.degraded) == ("fused", True)
            assert new.prompt in world.serving_keys()
            assert new.cluster != gone.cluster
        else:
            assert isinstance(new, Answer)
            assert (new.cluster, new.prompt, new.tier, new.degraded) == (gone.cluster, None, "closed_form", True)
    world.settle()
    assert not any(answer.degraded for answer in answered(Engine(world.context).run(asked)))


@pytest.mark.parametrize("policy", ["nearest", "abstain"])
def test_other_policies_wait_for_the_first_prompt(make_world: MakeWorld, policy: str) -> None:
    world = make_world(serving={"withdrawn": policy})
    world.add(4)
    assert isinstance(Engine(world.context, start(world)).run(queries(world, 1))[0], Unavailable)


def test_while_the_tier_is_lost_the_nearest_prompt_answers_in_its_place(idle: World) -> None:
    tier = start(idle)
    engine, asked = Engine(idle.context, tier), queries(idle, 12)
    before = withdraw_one(idle, engine, asked)
    tier.leave()
    for old, new in zip(before, answered(engine.run(asked)), strict=True):
        assert (new.tier, new.degraded) == ("prompt", old.cluster == before[0].cluster)
        assert new.prompt in idle.serving_keys()
    tier.keep()
    assert {answer.tier for answer in answered(engine.run(asked))} == {"fused", "closed_form"}


@pytest.mark.parametrize("policy", ["closed_form", "nearest", "abstain"])
def test_while_positions_mean_nothing_only_the_closed_form_answers(make_world: MakeWorld, policy: str) -> None:
    world = make_world(serving={"withdrawn": policy})
    world.add(8)
    world.settle()
    engine, asked = Engine(world.context, start(world)), queries(world, 3)
    with world.context.registry.write() as session:
        layout_state.lose(session)
        state.bump_epoch(session)
    for result in engine.run(asked):
        if policy == "closed_form":
            assert isinstance(result, Answer)
            assert (result.cluster, result.prompt, result.tier, result.degraded) == (None, None, "closed_form", True)
        else:
            assert isinstance(result, Unavailable)

"""Training: leases, quiet times, damage, settings. Whatever happens, what is served is what survivors imply."""

import errno

import pytest

from models.training import TrainedPrompt
from service.core import training
from service.core.opening import open_context
from service.errors import Misconfigured
from service.registry import clusters, prompts, samples
from service.registry.leases import Claim
from service.serving.snapshot import take_snapshot
from tests.world import MakeWorld, World, lease, meanwhile, prompt_objects

# ------------------------------------------------------------------------------------------------------------- leases


def test_a_worker_that_was_late_publishes_nothing(planned: World) -> None:
    """It stood still for longer than its lease, just before publishing; another has trained meanwhile."""

    def overtake() -> None:
        planned.time.advance(lease(planned))
        planned.reconcile()
        assert planned.train("other")

    planned.train("late", step=meanwhile("publish", overtake))
    assert len(prompt_objects(planned)) == 1
    planned.settle()
    planned.check()


def test_a_worker_that_was_overtaken_gives_up_at_the_end_of_the_epoch(planned: World) -> None:
    seen: list[str] = []

    def overtake() -> None:
        planned.time.advance(lease(planned))
        assert planned.kill_at("build", "other")

    hook = meanwhile("epoch 1", overtake)
    planned.train("late", step=lambda name: (seen.append(name), hook(name))[0])
    assert seen == ["claim", "build", "epoch 1"]


def test_every_epoch_renews_the_lease(make_world: MakeWorld) -> None:
    world = make_world(training={"epochs": 4})
    world.add(8)
    world.reconcile()

    def slow(name: str) -> None:
        if name.startswith("epoch"):
            world.time.advance(lease(world) - 1)
            assert not world.train("thief")

    assert world.train(step=slow)
    world.settle()
    world.check()


def test_a_heartbeat_can_keep_a_lease_and_is_told_when_it_ends(planned: World) -> None:
    told: list[Claim | None] = []
    training.train_one(planned.context, worker="w", on_lease=told.append)
    leased, ended = told
    assert leased is not None
    assert ended is None
    with pytest.raises(training.LeaseLost):
        training.renew(planned.context, leased)


def test_an_interrupted_worker_gives_its_lease_back_at_once(planned: World) -> None:
    assert training.train_one(planned.context, worker="leaving", interrupted=lambda: True)
    assert planned.serving_keys() == []
    assert planned.train("other")
    planned.settle()
    planned.check()


def test_nothing_to_do_is_said_so(world: World) -> None:
    assert world.reconcile() == 0
    assert not world.train()


# -------------------------------------------------------------------------------------------------------- quiet times


@pytest.fixture
def patient(make_world: MakeWorld) -> World:
    """Additions are trained after 5 quiet seconds, or 12 seconds after the first of them."""
    return make_world(training={"settle_seconds": 5, "settle_max_seconds": 12})


def test_additions_are_trained_once_it_is_quiet(patient: World) -> None:
    patient.add(4)
    assert patient.reconcile() == 0
    patient.time.advance(4)
    patient.add(1)
    patient.time.advance(4)
    assert patient.reconcile() == 0
    patient.time.advance(1)
    assert patient.reconcile() == 1


def test_additions_that_never_end_do_not_put_training_off_for_ever(patient: World) -> None:
    waiting = []
    for _ in range(5):
        patient.add(1)
        waiting.append(patient.reconcile())
        patient.time.advance(4)
    assert waiting == [0, 0, 0, 1, 1]  # 12 seconds after the first


def test_an_erasure_waits_for_no_quiet(patient: World) -> None:
    patient.add(6)
    patient.settle()
    patient.add(1)
    assert patient.reconcile() == 0
    patient.erase(next(iter(patient.survivors)))
    assert patient.reconcile() == 1


def test_a_training_of_additions_ends_their_wait(patient: World) -> None:
    patient.add(4)
    patient.time.advance(12)
    patient.reconcile()
    patient.train()
    patient.add(1)
    assert patient.reconcile() == 0
    patient.time.advance(5)
    assert patient.reconcile() == 1


# ------------------------------------------------------------------------------------------------------------ failing


def test_a_full_disk_serves_nothing_and_is_tried_again(planned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(planned.context.store, "put", full)
        assert planned.train()
    (cluster,) = planned.clusters()
    assert (cluster.serving_key, cluster.attempts) == (None, 1)
    assert cluster.failure == "The service's disk is full. Make room. It is tried again by itself."
    assert not planned.train()
    planned.time.advance(planned.context.settings.training.retry_seconds)
    assert planned.train()
    planned.settle()
    planned.check()


def test_pauses_double_with_every_failure_up_to_ten_minutes(planned: World) -> None:
    (sample, *_) = planned.survivors
    planned.file_of(samples.object_name(sample)).unlink()
    pauses = []
    for _ in range(8):
        assert planned.train()
        pause = 0
        while not planned.reconcile():
            planned.time.advance(10)
            pause += 10
        pauses.append(pause)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]


def test_new_samples_neither_hide_a_failure_nor_shorten_its_pause(planned: World) -> None:
    (sample, *_) = planned.survivors
    planned.file_of(samples.object_name(sample)).unlink()
    planned.train()
    planned.add(1)
    assert planned.reconcile() == 0
    assert sample in (planned.clusters()[0].failure or "")
    planned.time.advance(planned.context.settings.training.retry_seconds)
    assert planned.reconcile() == 1


@pytest.mark.parametrize("damage", ["missing", "one bit", "empty"])
def test_a_damaged_artifact_is_given_up_by_serving_and_built_again(planned: World, damage: str) -> None:
    planned.settle()
    (name,) = prompt_objects(planned)
    path = planned.file_of(name)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "one bit" else b"")
    assert take_snapshot(planned.context, None).served == []
    assert planned.serving_keys() == []
    planned.settle()
    planned.check()
    assert len(take_snapshot(planned.context, None).served) == 1


# ----------------------------------------------------------------------------------------------------------- settings


def test_other_training_settings_make_every_prompt_anew_and_change_nothing_while_nothing_changes(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.add(14)
    world.settle()
    before = world.serving_keys()
    world.restart()
    assert world.is_idle()
    world.restart(training={"head_lr": 0.2})
    world.settle()
    world.check()
    assert not set(before) & set(world.serving_keys())


def test_a_training_under_old_settings_comes_to_nothing(planned: World) -> None:
    old = planned.context
    planned.train(step=meanwhile("publish", lambda: planned.restart(training={"head_lr": 0.2})))
    old.registry.close()
    assert planned.serving_keys() == []
    planned.settle()
    planned.check()


def test_the_same_survivors_give_the_same_bytes_whatever_was_forgotten(make_world: MakeWorld) -> None:
    """The one idea: erased as if it had never been there."""
    world = make_world()
    survivors = world.new_samples(12)
    guests = world.new_samples(9, owner="guest")
    for pair in zip(survivors, guests, strict=False):
        world.take_in(pair)
        world.settle()
    world.take_in(survivors[len(guests) :])
    world.erase_owner("guest")
    world.settle()
    incremental = tensors(world)
    world.erase_owner("ann")
    world.settle()
    assert tensors(world) == {}
    world.take_in(survivors)
    world.settle()
    world.check()
    assert tensors(world) == incremental


def tensors(world: World) -> dict[str, str]:
    """Digest of the learned tensors of each served prompt."""
    with world.context.registry.read() as session:
        return {key: prompt.digest for key, prompt in prompts.get(session, world.serving_keys()).items()}


def test_a_training_that_diverges_is_shown_with_its_remedy_and_never_served(make_world: MakeWorld) -> None:
    world = make_world(training={"head_lr": 1e30, "prompt_lr": 1e30, "epochs": 3})
    world.add(8)
    world.reconcile()
    world.train()
    (cluster,) = world.clusters()
    assert cluster.serving_key is None
    assert cluster.failure == "Training diverged. Lower training.prompt_lr or training.head_lr."


def test_a_process_with_other_settings_than_the_registrys_changes_nothing(make_world: MakeWorld) -> None:
    world, other = make_world(), make_world(training={"head_lr": 0.2})
    world.add(6)  # anybody may bring samples
    for work in (world.reconcile, world.train):
        with pytest.raises(Misconfigured, match=r"other settings \(training\)"):
            work()
    with pytest.raises(Misconfigured, match="nothing has been changed"):
        open_context(world.context.settings, read_only=True)
    reader = open_context(other.context.settings, read_only=True)
    assert reader.training == other.context.training
    reader.registry.close()
    other.survivors, other.vectors = world.survivors, world.vectors
    other.settle()
    other.check()


def test_a_prompt_of_one_label_needs_no_training(world: World) -> None:
    world.take_in([world.new_sample("cat") for _ in range(4)])
    world.settle()
    world.check()
    with world.context.registry.read() as session:
        (prompt,) = prompts.get(session, world.serving_keys()).values()
    assert (prompt.labels, prompt.sample_epochs) == (("cat",), 0)


def test_an_unforeseen_error_is_shown_and_tried_again(planned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **keywords: object) -> TrainedPrompt:
        raise RuntimeError("secret details")

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", broken)
        assert planned.train()
    (cluster,) = planned.clusters()
    assert cluster.failure == "RuntimeError while training; see the worker's log."
    with planned.context.registry.read() as session:
        assert clusters.unfinished(session)
    planned.settle()
    planned.check()

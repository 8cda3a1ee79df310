"""Training one cluster in a worker: claim, build, publish.

A claim is a lease; a publication is a compare-and-swap. A worker that is late, doubled or dead can therefore waste
work, and never publish what is no longer desired.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from models import checkpoint
from models.training import TrainedPrompt, TrainingExample, train
from service import tracing
from service.artifacts import ObjectMissing, StoreUnavailable
from service.core import adapting, sample_file
from service.core.context import Context, require_bound
from service.core.environment import fingerprint
from service.core.replan import key_of
from service.errors import DISK_FULL, STORE_AWAY, Unavailable, is_disk_full, is_store_away
from service.registry import adapted, clusters, counters, destructions, leases, prompts, samples, state
from service.registry.engine import WriteSession
from service.registry.leases import Claim
from service.registry.records import Prompt
from service.registry.samples import MemberRecord
from service.settings import TrainingSettings

log = logging.getLogger(__name__)

Step = Callable[[str], None]  # called with the name of each step as it begins; tests crash there
Interrupted = Callable[[], bool]
OnLease = Callable[[Claim | None], None]  # called with the claim being trained, so that a heartbeat renews its lease


class LeaseLost(Exception):
    """The lease is lost: the prompt is no longer desired, or another worker builds it."""


class CannotTrain(Exception):
    """This cluster cannot be trained with its present samples; the message says what to do."""


class NotNow(Exception):
    """The store is away: no failure of the cluster, so it is tried again without a limit."""


@dataclass(frozen=True)
class BuiltPrompt:
    """A trained prompt, its artifact, and the samples it has seen."""

    prompt: TrainedPrompt
    artifact: bytes
    member_ids: tuple[str, ...]
    seconds: float


def train_one(
    context: Context,
    *,
    worker: str,
    step: Step = lambda name: None,
    on_lease: OnLease = lambda claim: None,
    interrupted: Interrupted = lambda: False,
    urgent: bool = False,
) -> bool:
    """Claim the most urgent cluster, build its prompt, publish it. False if there was nothing to claim.

    `interrupted` is asked after every batch; once it says yes, the lease is given back. With `urgent`, only a cluster
    that an erasure changed is claimed. Raises Unavailable if the registry is away when the outcome is to be recorded.
    Then nothing is published, and the lease still stands: this worker gives it back later, or it runs out.
    """
    step("claim")
    claim = _claim(context, worker, urgent=urgent)
    if claim is None:
        return False
    on_lease(claim)
    try:
        published = _train(context, claim, step, interrupted)
    finally:
        on_lease(None)
    if not published:  # and nothing of its samples is in this process's memory any more
        with suppress(Unavailable), context.registry.write_beside_plans() as session:
            destructions.let_go(session, prompts.unpublished_name(claim.token))
    return True


def _train(context: Context, claim: Claim, step: Step, interrupted: Interrupted) -> bool:
    """Build and publish, or record why that came to nothing; whether it is published."""
    try:
        step("build")
        built = _build(context, claim, step, interrupted)
        step("publish")
        _publish(context, claim, built, step)
        log.info("cluster %s serves prompt %s", claim.cluster, claim.key[:12], extra={"cluster": claim.cluster})
        return True
    except LeaseLost:
        log.info("training cluster %s was given up: interrupted, or changed meanwhile", claim.cluster)
        with context.registry.write() as session:
            leases.give_up(session, claim)
    except CannotTrain as failure:
        _fail(context, claim, str(failure))
    except Unavailable as error:  # the registry: no fault of the cluster
        log.warning("training cluster %s was given up: %s", claim.cluster, error.detail)
        _give_up(context, claim)
    except NotNow as failure:
        _fail(context, claim, str(failure), counted=False)
    except Exception as error:
        log.exception("training cluster %s failed", claim.cluster)
        reason = f"{type(error).__name__} while training; see the worker's log."
        _fail(context, claim, f"{DISK_FULL} It is tried again by itself." if is_disk_full(error) else reason)
    return False


def _claim(context: Context, worker: str, *, urgent: bool) -> Claim | None:
    settings = context.settings
    with context.registry.write() as session:
        require_bound(context, session)
        while True:
            claim = leases.claim(
                session,
                worker=worker,
                now=context.clock(),
                lease=settings.worker.lease,
                patience=timedelta(seconds=settings.training.settle_max_seconds),
                urgent=urgent,
            )
            if claim is None or claim.replaced is None:
                return claim
            prompts.destroy_unpublished(session, [claim.replaced])
            if not _put_aside(context, session, claim):
                return claim


def _put_aside(context: Context, session: WriteSession, claim: Claim) -> bool:
    """Count an expired lease as a failed try: its worker was killed, perhaps by this very cluster.

    The cluster is taken over at once: waiting for the lease's end was the pause. After too many failures it
    pauses as any failed cluster does, and no other worker is risked now.
    """
    settings = context.settings.training
    cluster = clusters.get(session, claim.cluster)
    tries = (cluster.attempts if cluster is not None else 0) + 1
    log.info("cluster %s: the worker that trained it is gone (%d failed tries)", claim.cluster, tries)
    retry_at = context.clock() + pause_after(settings, tries)
    put_aside = tries >= settings.attempts
    count = leases.fail if put_aside else leases.count_try
    count(session, claim, failure=leases.KILLED, retry_at=retry_at)
    counters.add(session, counters.FAILURES)
    return put_aside


@tracing.traced("build prompt")
def _build(context: Context, claim: Claim, step: Step, interrupted: Interrupted) -> BuiltPrompt:
    with context.registry.read() as session:
        if claim.is_adapter:
            rows = samples.core(session, through=claim.through)
        else:
            rows = samples.members(session, claim.cluster, through=claim.through)
    training = context.adapting if claim.is_adapter else context.training
    if key_of(context, rows, training) != claim.key:
        raise LeaseLost
    members = [_load(context, claim, row) for row in rows]
    epochs = training.epochs_of(len(members))
    started = time.perf_counter()

    def progress(done: int, steps: int) -> None:
        if interrupted():
            raise LeaseLost
        if done and done * epochs % steps == 0:
            step(f"epoch {done * epochs // steps}")
            with suppress(Unavailable):  # the heartbeat goes on asking, and publishing needs the registry anyway
                renew(context, claim)

    prompt = train(context.backbone, training, key=claim.key, members=members, progress=progress)
    seconds = time.perf_counter() - started
    if not prompt.is_finite or (claim.is_adapter and not adapting.says_something(context, prompt, members)):
        rate = "core.prompt_lr" if claim.is_adapter else "training.prompt_lr"
        raise CannotTrain(f"Training diverged. Lower {rate} or training.head_lr.")
    artifact = checkpoint.save(
        prompt,
        key=claim.key,
        identity=context.identity_of(training),
        fingerprint=fingerprint(context),
        seconds=seconds,
    )
    return BuiltPrompt(prompt, artifact, tuple(row.id for row in rows), seconds)


def renew(context: Context, claim: Claim) -> None:
    """Renew the lease. Raises LeaseLost."""
    with context.registry.write_beside_plans() as session:
        until = context.clock() + context.settings.worker.lease
        if not leases.renew(session, claim, until=until):
            raise LeaseLost


def _load(context: Context, claim: Claim, row: MemberRecord) -> TrainingExample:
    try:
        data = context.store.get(samples.object_name(row.id))
        pixels = sample_file.decode(data, digest=row.digest).pixels
    except StoreUnavailable as error:
        raise _not_now(error) from None
    except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
        renew(context, claim)  # erased since the members were listed: no failure, the plan has changed
        reason = sample_file.words(error)
        raise CannotTrain(
            f"Sample {row.id} cannot be trained on: {reason}. Restore its file from a backup, or erase the sample."
        ) from None
    return TrainingExample(pixels, row.label)


@tracing.traced("publish prompt")
def _publish(context: Context, claim: Claim, built: BuiltPrompt, step: Step) -> None:
    """The publishing transaction: the cluster serves the new prompt, if it is still desired and the lease still holds.

    1. Lock the cluster, before the serving epoch: the order in which an erasure locks them.
    2. Record the prompt and the samples that it has seen, at a new serving epoch.
    3. Let the cluster serve it, by a compare-and-swap that fails once the lease or the plan is another.
    4. Store the artifact. A worker that has lost its lease gets no further than step 3, so it stores nothing; what a
       worker stores that dies before it commits is deleted with its lease.
    5. Drop the prompt that is no longer served, and schedule the deletion of its artifact.
    6. Count the training.
    """
    name = prompts.unpublished_name(claim.token)
    stored = False
    try:
        context.store.check()  # while no writer waits for a lock of this worker: one that hangs would delay erasures
        with context.registry.write() as session:
            # 1. Lock the cluster.
            clusters.lock(session, [claim.cluster])
            # 2. Record the prompt.
            record = Prompt(
                key=claim.key,
                object_name=name,
                digest=checkpoint.tensor_digest(built.prompt),
                labels=built.prompt.labels,
                members=built.prompt.members,
                sample_epochs=built.prompt.sample_epochs,
                seconds=built.seconds,
                trained_at=context.clock(),
                published_epoch=state.bump_epoch(session),
                fingerprint=fingerprint(context),
            )
            prompts.insert(session, record, member_ids=built.member_ids)
            # 3. Serve it.
            if not leases.publish(session, claim):
                raise LeaseLost
            if claim.is_adapter:
                adapted.note_publication(session)
            # 4. Store the artifact.
            step("store")
            stored = True
            context.store.put(name, built.artifact)
            # 5. Drop its predecessor.
            prompts.drop_unserved(session)
            # 6. Count the training.
            counters.observe(session, counters.TRAINING, built.seconds)
            counters.add(session, counters.SAMPLE_EPOCHS, record.sample_epochs)
            step("commit")
    except BaseException as error:
        if stored and not isinstance(error, Unavailable):  # else it may be published, without an answer: `_give_up`
            _destroy_unpublished(context, claim, doubtful=isinstance(error, OSError))
        if isinstance(error, OSError) and is_store_away(error):
            raise _not_now(error) from error
        raise


def _give_up(context: Context, claim: Claim) -> None:
    """Give up after the registry was away: a lease that still holds was not published, and its stored object must go.

    If the registry is away still, the lease expires, and the worker that takes it over deletes the object.
    """
    with context.registry.write() as session:
        if leases.give_up(session, claim):
            prompts.destroy_unpublished(session, [claim.token])


def _destroy_unpublished(context: Context, claim: Claim, *, doubtful: bool) -> None:
    """Delete what a failed publication has stored.

    doubtful  The request has had no answer and may yet be carried out: the object's deletion is scheduled as well,
              while this worker has the lease, so that no erasure can be accepted in between.
    """
    try:
        context.store.delete(prompts.unpublished_name(claim.token))
    except OSError:
        doubtful = True
    if doubtful:
        with suppress(Exception), context.registry.write() as session:  # without a registry it is left to `tidy`
            prompts.destroy_unpublished(session, [claim.token])


def _not_now(error: OSError) -> NotNow:
    log.warning("the store is away: %s", error.strerror)  # the words may name the server and its bucket
    return NotNow(f"{STORE_AWAY} It is tried again by itself.")


def _fail(context: Context, claim: Claim, failure: str, *, counted: bool = True) -> None:
    settings = context.settings.training
    log.warning("cluster %s: %s", claim.cluster, failure)
    with context.registry.write() as session:
        cluster = clusters.get(session, claim.cluster)
        tries = cluster.attempts if cluster is not None else 0
        pause = pause_after(settings, tries + 1)
        if leases.fail(session, claim, failure=failure, retry_at=context.clock() + pause, counted=counted):
            counters.add(session, counters.FAILURES)


def pause_after(settings: TrainingSettings, failures: int) -> timedelta:
    """How long a cluster pauses after so many failures: it doubles, up to ten minutes."""
    seconds = settings.retry_seconds * 2.0 ** min(max(failures, 1) - 1, 20)
    return min(timedelta(seconds=seconds), leases.MAX_PAUSE)

"""The audit: whether the service serves what its survivors imply, and nothing else. Reads only.

Three questions, each answered from the samples alone, without the service's own counts and plans. Is the plan the one
that `core.plan` computes from the survivors, and are their pixels (on request, their embeddings) what the registry
says? Is every served prompt the recorded artifact (on request, what training from scratch gives)? Is anything left that
mentions an erased sample? Samples of the evaluation set are in no plan and no sum; their files are compared as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import checkpoint
from models.embedding import Embedding
from models.training import TrainingExample, train
from service.artifacts import ObjectMissing, born
from service.core import layouts, ledger, sample_file
from service.core.adapted_audit import SamplesDescribed, audit_adapted
from service.core.context import Context
from service.core.environment import fingerprint
from service.core.finding import Advance, Finding
from service.core.implied import ImpliedClosedForm
from service.core.plan import PlannedAdapter, PlannedCluster, Survivor, locate, plan, plan_adapter
from service.core.sample_audit import SampleAudit, audit_descriptions
from service.core.tidy import UNRECORDED_KEPT
from service.errors import Unavailable
from service.registry import (
    adapted,
    clusters,
    descriptions,
    destructions,
    erasures,
    evaluation,
    feed,
    layout_state,
    prompts,
    replicas,
    samples,
)
from service.registry import ledger as rows
from service.registry.feed import Added
from service.registry.records import Cluster, LayoutInForce, Marks, Prompt, Replica
from service.registry.roles import CORE
from service.registry.samples import SurvivorRecord


@dataclass(frozen=True)
class Scope:
    """The parts of an audit that cost time: recomputed embeddings; rebuilt prompts: all, a number, or one cluster's."""

    embeddings: bool = False
    rebuild_all: bool = False
    rebuild_count: int = 0
    rebuild_cluster: str | None = None


def audit(context: Context, scope: Scope, *, advance: Advance = lambda what, done, total: None) -> Iterator[Finding]:
    """Every difference, as it is found. A service without open work has none; open work is reported as unfinished."""
    tombs, failure = _read_ledger(context)  # before the registry, which then knows all of these erasures
    with context.registry.read() as session:
        survivors = samples.every(session)
        held_out = evaluation.survivors(session)
        served, adapter = clusters.every(session), clusters.adapter(session)
        holders = [*served, *([adapter] if adapter is not None else [])]
        built = prompts.get(session, [c.serving_key for c in holders if c.serving_key is not None])
        orphans = prompts.orphaned_members(session)
        risen = erasures.risen(session)
        erased = erasures.erased_samples(session)
        pending = set(destructions.pending(session))
        record = layout_state.current(session)
        anchors = layout_state.anchors(session)
        known_replicas, marks = replicas.every(session), feed.marks(session)
        undescribed = {one.id for one in descriptions.missing(session, context.backbone.kind.name)}
        adapter_prompt = adapted.in_force(session)
        publication = adapted.publication_of(adapter_prompt.object_name) if adapter_prompt is not None else None
        unadapted = {one.id for one in adapted.missing(session, publication)} if publication is not None else set()
        adapted_marks = adapted.marks(session)
        learned_from = rows.seen(session, [one.id for one in held_out])
    yield from audit_descriptions(survivors, held_out, undescribed)
    vectors: dict[str, Embedding] = {}
    implied = ImpliedClosedForm(context, [one for one in survivors if one.id not in undescribed])
    of_samples = SampleAudit(context, undescribed, again=scope.embeddings, advance=advance)
    yield from of_samples.differences(survivors, vectors, implied)
    yield from of_samples.differences(held_out)
    for sample_id in sorted(learned_from):
        yield Finding(f"sample {sample_id}", "is of the evaluation set, and a prompt has seen it")
    yield from _replicas(context, known_replicas, marks, implied)
    places = _places(context, survivors, vectors)
    yield from _layout(context, survivors, served, record, anchors)
    yield from _positions(survivors, served, places)
    found = [
        Survivor(sample.digest, sample.label, place, is_core=sample.role == CORE)
        for sample, place in zip(survivors, places, strict=True)
    ]
    planned = plan(
        found,
        partition=context.partition,
        backbone_digest=context.backbone.digest,
        training=context.training,
    )
    yield from _plan(survivors, served, planned)
    wanted = plan_adapter(found, backbone_digest=context.backbone.digest, adapting=context.adapting)
    yield from _adapter(found, adapter, wanted)
    yield from _prompts(context, holders, built, advance)
    members = {cluster.key: cluster.members for cluster in planned} | ({wanted.key: wanted.members} if wanted else {})
    yield from _rebuilt(context, survivors, holders, members, built, scope, advance)
    if adapter_prompt is not None:
        yield from audit_adapted(
            context,
            adapter_prompt,
            SamplesDescribed(survivors, unadapted),
            [one for one in known_replicas if one.is_alive(context.clock(), context.settings.worker.fresh)],
            adapted_marks,
            again=scope.embeddings,
        )
    for key, sample_id in orphans:
        yield Finding(f"prompt {key}", f"has seen sample {sample_id}, which is not in the registry")
    for sample_id in risen:
        yield Finding(f"sample {sample_id}", "was erased, and is in the registry again")
    if adapter_prompt is not None:
        theirs = [one.id for one in survivors if one.id not in unadapted]
        pending |= {adapted.object_name(publication or "", sample_id) for sample_id in theirs}
    pending |= {record.object} if record.object is not None else set()
    yield from _orphans(context, [*survivors, *held_out], built, pending, erased)
    yield from _messages(context, erased)
    if failure is not None:
        yield Finding("ledger", failure)
    else:
        yield from (Finding(subject, reason) for subject, reason in ledger.differences(context, tombs))


def _read_ledger(context: Context) -> tuple[ledger.Reading, str | None]:
    """The erasure ledger, and why it cannot be read."""
    try:
        return ledger.read(context.ledger), None
    except Unavailable as unavailable:
        return ledger.Reading(), unavailable.detail


def _plan(
    survivors: Sequence[SurvivorRecord], served: Sequence[Cluster], planned: Sequence[PlannedCluster]
) -> Iterator[Finding]:
    by_region = {(cluster.lo, cluster.hi): cluster for cluster in served}
    expected = {(wanted.region.lo, wanted.region.hi) for wanted in planned}
    for cluster in served:
        if cluster.differs:
            yield Finding(f"cluster {cluster.id}", "is not finished: it waits for its plan or its training")
    if any(cluster.unplanned for cluster in served):
        return  # regions are about to change
    for cluster in served:
        if (cluster.lo, cluster.hi) not in expected:
            yield Finding(f"cluster {cluster.id}", "has a region that the survivors do not imply")
    for wanted in planned:
        found = by_region.get((wanted.region.lo, wanted.region.hi))
        if found is None:
            yield Finding(f"region {wanted.region.lo:x}-{wanted.region.hi:x}", "is implied, and has no cluster")
            continue
        if found.samples != len(wanted.members):
            yield Finding(f"cluster {found.id}", f"counts {found.samples} samples, and holds {len(wanted.members)}")
        if found.serving_key not in (None, wanted.key) and not found.differs:
            yield Finding(f"cluster {found.id}", "serves another key than its survivors imply")
        for member in wanted.members:
            if survivors[member].cluster != found.id:
                yield Finding(f"sample {survivors[member].id}", f"is on the books of another cluster than {found.id}")


def _adapter(
    survivors: Sequence[Survivor], adapter: Cluster | None, wanted: PlannedAdapter | None
) -> Iterator[Finding]:
    """Differences of the adapter from the one that the core samples imply."""
    if adapter is None:
        if wanted is not None:
            yield Finding("adapter", "is implied by core samples, and is not on record")
        return
    if adapter.differs:
        yield Finding("adapter", "is not finished: it waits for its plan or its training")
    count = sum(survivor.is_core for survivor in survivors)
    if adapter.samples != count:
        yield Finding("adapter", f"counts {adapter.samples} core samples, and there are {count}")
    implied = wanted.key if wanted is not None else None
    if adapter.serving_key not in (None, implied) and not adapter.differs:
        yield Finding("adapter", "has another key than the core samples imply")


def _replicas(
    context: Context, known: Sequence[Replica], marks: Marks, implied: ImpliedClosedForm
) -> Iterator[Finding]:
    """Live replicas whose closed-form tier does not know exactly the survivors, or answers with other settings."""
    alive = [one for one in known if one.is_alive(context.clock(), context.settings.worker.fresh)]
    ready = [one for one in alive if one.marks == marks and one.digest is not None]
    expected = implied.digest() if ready else None
    for replica in alive:
        if replica.marks != marks:
            yield Finding(f"replica {replica.name}", "has not applied all changes yet")
        elif replica.digest is None:
            yield Finding(f"replica {replica.name}", "has yet to start, or to choose its lambda and temperature")
        elif expected is None:
            yield Finding(f"replica {replica.name}", "cannot be compared: see the samples", False)
        elif replica.digest != expected:
            yield Finding(f"replica {replica.name}", "has a closed-form tier that the survivors do not imply")


def _places(context: Context, survivors: Sequence[SurvivorRecord], vectors: Mapping[str, Embedding]) -> list[int]:
    """Positions of the survivors, recomputed; of a sample whose file is damaged, the recorded position."""
    if len(vectors) < len(survivors) and context.partition.window(len(survivors)):
        return [sample.position for sample in survivors]  # the damaged sample may be an anchor: no layout can be fitted
    whole = [sample for sample in survivors if sample.id in vectors]
    embeddings = np.stack([vectors[sample.id] for sample in whole]) if whole else np.empty((0, 0), np.float32)
    found = locate(
        [sample.digest for sample in whole],
        [sample.owner for sample in whole],
        embeddings,
        partition=context.partition,
    )
    located = dict(zip((sample.id for sample in whole), found, strict=True))
    return [located.get(sample.id, sample.position) for sample in survivors]


def _layout(
    context: Context,
    survivors: Sequence[SurvivorRecord],
    served: Sequence[Cluster],
    record: LayoutInForce,
    anchors: Sequence[tuple[int, str]],
) -> Iterator[Finding]:
    """Differences of the layout in force from the one that the survivors imply; damage to its file."""
    window = survivors[: context.partition.window(len(survivors))]
    digest, wanted = layouts.wanted(context, [(sample.id, sample.digest) for sample in window])
    if record.failure is not None:
        yield Finding("partition", record.failure)
    if record.digest != digest:
        if not any(cluster.unplanned for cluster in served):
            yield Finding("partition", "another layout is in force than the survivors imply")
    elif [sample_id for _, sample_id in anchors] != wanted:
        yield Finding("partition", "the layout in force has other anchors than the survivors imply")
    if record.object is not None:
        try:
            data = context.store.get(record.object)
        except ObjectMissing:
            yield Finding(f"object {record.object}", "is the layout in force, and has no file in the store")
        except OSError as error:
            yield Finding(f"object {record.object}", f"is the layout in force, and cannot be read: {error.strerror}")
        else:
            if hashlib.sha256(data).hexdigest() != record.checksum:
                yield Finding(f"object {record.object}", "is the layout in force, and is damaged")


def _positions(
    survivors: Sequence[SurvivorRecord], served: Sequence[Cluster], places: Sequence[int]
) -> Iterator[Finding]:
    if any(cluster.unplanned for cluster in served):
        return  # a new layout may be about to give every sample another position
    for sample, place in zip(survivors, places, strict=True):
        if place != sample.position:
            yield Finding(f"sample {sample.id}", "stands at another position than its embedding implies")


def _prompts(
    context: Context, served: Sequence[Cluster], built: dict[str, Prompt], advance: Advance
) -> Iterator[Finding]:
    for done, cluster in enumerate(served, start=1):
        advance("prompts", done, len(served))
        if cluster.serving_key is None:
            continue
        prompt = built[cluster.serving_key]
        try:
            data = context.store.get(prompt.object_name)
            identity = context.identity_of(context.adapting if cluster.is_adapter else context.training)
            checkpoint.load(data, key=prompt.key, digest=prompt.digest, labels=prompt.labels, identity=identity)
        except ObjectMissing:
            yield Finding(f"cluster {cluster.id}", f"serves prompt {prompt.key}, which has no file in the store")
        except OSError as error:
            yield Finding(
                f"cluster {cluster.id}", f"serves prompt {prompt.key}, which cannot be read: {error.strerror}"
            )
        except checkpoint.CheckpointMismatch as mismatch:
            yield Finding(f"cluster {cluster.id}", f"serves prompt {prompt.key}, which is damaged: {mismatch}")


def _rebuilt(
    context: Context,
    survivors: Sequence[SurvivorRecord],
    served: Sequence[Cluster],
    members: Mapping[str, Sequence[int]],
    built: dict[str, Prompt],
    scope: Scope,
    advance: Advance,
) -> Iterator[Finding]:
    """Served prompts whose tensor bytes differ from what training from scratch gives.

    members  indices of survivors, by the key that they imply.
    """
    serving = [cluster for cluster in served if cluster.serving_key in members]
    if scope.rebuild_cluster is not None:
        serving = [cluster for cluster in serving if cluster.id == scope.rebuild_cluster]
    elif not scope.rebuild_all:
        serving = serving[: scope.rebuild_count]
    for done, cluster in enumerate(serving, start=1):
        advance("rebuilds", done, len(serving))
        prompt = built[cluster.serving_key or ""]
        if prompt.fingerprint != fingerprint(context):
            yield Finding(f"cluster {cluster.id}", "cannot be compared: trained in another environment", False)
            continue
        try:
            learned = [_member(context, survivors[i]) for i in members[prompt.key]]
        except (ObjectMissing, sample_file.DamagedSample, OSError):
            yield Finding(f"cluster {cluster.id}", "cannot be rebuilt: see its samples")
            continue
        training = context.adapting if cluster.is_adapter else context.training
        again = train(context.backbone, training, key=prompt.key, members=learned)
        if checkpoint.tensor_digest(again) != prompt.digest:
            yield Finding(f"cluster {cluster.id}", f"rebuilding prompt {prompt.key} gives other bytes")


def _member(context: Context, sample: SurvivorRecord) -> TrainingExample:
    pixels = sample_file.decode(context.store.get(samples.object_name(sample.id)), digest=sample.digest).pixels
    return TrainingExample(pixels, sample.label)


def _orphans(
    context: Context,
    survivors: Sequence[SurvivorRecord | Added],
    built: dict[str, Prompt],
    pending: set[str],
    erased: set[str],
) -> Iterator[Finding]:
    """Objects that belong to no row.

    A new sample's object is stored before its row. A young object may get its row in a moment, or its request was
    killed in between; then `tidy` deletes it. The object of an erased sample is a difference however young it is.
    """
    known = {samples.object_name(sample.id) for sample in survivors}
    known |= {prompt.object_name for prompt in built.values()} | pending
    gone = {samples.object_name(sample_id) for sample_id in erased}
    horizon = context.clock() - UNRECORDED_KEPT
    leaving = {adapted.publication_of(name) for name in pending if name.startswith("prompts/")}
    for prefix in ("samples", "prompts", "layouts", adapted.PREFIX):
        try:
            names = sorted(context.store.names(prefix))
        except OSError as error:
            yield Finding("store", f"does not say which {prefix} it holds: {error.strerror}")
            continue
        for name in names:
            if name in known or (prefix == adapted.PREFIX and adapted.parse(name)[0] in leaving):
                continue
            if prefix == "samples" and name not in gone and (born(name) or horizon) > horizon:
                yield Finding(f"object {name}", "is not recorded yet: its request is under way, or was killed", False)
            else:
                yield Finding(f"object {name}", "belongs to nothing in the registry")


def _messages(context: Context, erased: set[str]) -> Iterator[Finding]:
    """Messages of the embedded broker that mention an erased sample; no message should mention any sample."""
    folder: Path = context.settings.data_dir / "queue"
    for path in sorted(folder.rglob("*.msg")):
        text = path.read_text(errors="replace") if path.exists() else ""
        for sample_id in erased:
            if sample_id in text:
                yield Finding(f"message {path.name}", f"mentions erased sample {sample_id}")

"""Opening a process's context, and checking that registry, store and settings belong together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from models.backbone import UnknownBackbone, load_backbone
from models.partition import make_partition
from models.prompt import values_shape
from service.artifacts import FolderStore, Store, open_store
from service.artifacts.opening import ledger_folder
from service.clock import Clock, system_clock
from service.core import layouts
from service.core.context import Context, require_bound
from service.errors import Misconfigured
from service.registry import clusters, state, tracing
from service.registry.engine import ConnectionOptions, Registry
from service.settings import S3Settings, Settings


def open_registry(settings: Settings) -> Registry:
    """The registry, with the connections that these settings ask for."""
    chosen = settings.registry
    options = ConnectionOptions(
        pool=chosen.pool,
        overflow=chosen.overflow,
        connect=chosen.connect_seconds,
        statement=chosen.statement_seconds,
        lock=chosen.lock_seconds,
        idle=chosen.idle_seconds,
    )
    registry = Registry(settings.database, options)
    if settings.tracing:
        tracing.observe(registry)
    return registry


def open_context(settings: Settings, *, clock: Clock = system_clock, read_only: bool = False) -> Context:
    """Load the backbone, open registry and store, and bind them to each other.

    Raises Misconfigured; Unavailable if the store does not answer.

    read_only  change nothing; refuse settings other than those that the registry was made with.
    """
    try:
        backbone = load_backbone(
            settings.backbone,
            input_size=settings.input_size,
            device=settings.device,
            kind=settings.descriptor_kind,
        )
    except UnknownBackbone as error:
        raise Misconfigured(str(error)) from error
    training = settings.training.spec()
    try:
        values_shape(training.prompt, backbone)
        partition = make_partition(
            settings.partition.spec(),
            backbone.prototypes,
            centroids=settings.partition.read_centroids(),
            cache=settings.cache,
        )
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    store = open_store(settings.store_url, folder=settings.data_dir / "objects", s3=settings.s3, read_only=read_only)
    context = Context(
        settings=settings,
        ledger=_open_ledger(settings, store, read_only=read_only),
        registry=open_registry(settings),
        store=store,
        backbone=backbone,
        partition=partition,
        training=training,
        closed_form=settings.closed_form.spec(),
        clock=clock,
    )
    try:
        check_bound(context) if read_only else bind(context)
    except BaseException:
        context.registry.close()
        raise
    return context


def _open_ledger(settings: Settings, store: Store, *, read_only: bool) -> Store:
    """The ledger that the settings name; by default beside the objects of a data folder, or among those of `store_url`.

    Beside, since restoring a backup puts objects back, and the ledger must not go back with them. An earlier
    release kept it among the objects: what is found there is moved.

    Raises Misconfigured; Unavailable if a bucket's server does not answer.
    """
    if settings.ledger_url is not None:
        return open_ledger(settings.ledger_url, s3=settings.s3)
    if settings.store_url is not None:
        return store
    old = settings.data_dir / "objects" / "ledger"
    if read_only and old.is_dir():
        return store
    folder = settings.data_dir / "ledger"
    try:
        if not read_only:
            _move_tombstones(old, folder / "ledger")
        return FolderStore(folder)
    except OSError as error:
        raise _unusable(folder, error) from None


def _unusable(folder: Path, error: OSError) -> Misconfigured:
    return Misconfigured(f"The ledger's folder {folder} cannot be used ({error.strerror}).")


def _move_tombstones(old: Path, new: Path) -> None:
    """Several processes may start at once: what another has moved already is moved."""
    for path in sorted(old.rglob("*.json")):
        target = new / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.replace(target)
    for folder in sorted([*old.rglob("*"), old], reverse=True):
        with suppress(OSError):  # not there, or an older process still writes to it
            folder.rmdir()


def open_ledger(url: str, *, s3: S3Settings, make: bool = True) -> Store:
    """The store of an erasure ledger. Raises Misconfigured; Unavailable if a bucket's server does not answer.

    make  False: the ledger must exist. An empty place would claim that nothing was ever erased.
    """
    folder = ledger_folder(url)
    if folder is None:
        bucket = open_store(url, folder=Path(), s3=s3, read_only=not make)
        if not make and next(iter(bucket.names("ledger")), None) is None:
            raise Misconfigured(f"There is no ledger in {url}: nothing is stored under `ledger`.")
        return bucket
    try:
        if not make and not (folder / "ledger").is_dir():
            raise Misconfigured(f"There is no ledger in {folder}: it has no folder `ledger`.")
        return FolderStore(folder)
    except OSError as error:
        raise _unusable(folder, error) from None


def check_bound(context: Context) -> None:
    """Raise Misconfigured unless the registry was made with these settings."""
    with context.registry.read() as session:
        require_bound(context, session)


def bind(context: Context) -> None:
    """Record the settings that the registry is used with; discard every plan where they have changed.

    A changed partition is put in force later, by a worker (`core.relayout`); until then the old one stays in force.
    Samples with descriptors of another kind are described anew, by a worker (`core.redescribe`).
    Raises Misconfigured for another backbone: positions and embeddings were computed with the old one.
    """
    with context.registry.write(exclusive=True) as session:
        row = state.ensure(session)
        if row.backbone_digest not in (None, context.backbone.digest):
            raise Misconfigured(
                f"This registry was made with backbone {row.backbone_name!r} (digest "
                f"{(row.backbone_digest or '')[:12]}); these settings name {context.backbone.name!r} (digest "
                f"{context.backbone.digest[:12]}). Use the old one, or another data folder; nothing has been changed."
            )
        if row.backbone_digest is None and context.settings.store_url is not None:
            _require_empty(context)
        digests = (context.partition.digest, context.training.digest())
        adapting = context.adapting.digest()
        if row.backbone_digest is not None and digests != (row.partition_digest, row.training_digest):
            clusters.forget_plans(session)
        elif row.adapter_digest not in (None, adapting):
            clusters.forget_plans(session, of_adapter=True)
        row.backbone_digest = context.backbone.digest
        row.backbone_name = context.backbone.name
        row.partition_digest, row.training_digest = digests
        row.adapter_digest = adapting
        row.descriptor_kind = context.backbone.kind.name
        session.flush()
        if not clusters.every(session) and row.layout_digest != context.partition.line_digest:
            layout = layouts.public(context)
            artifact = layouts.put_in_force(context, session, context.partition.line_digest, layout)
            if artifact is not None:
                context.store.put(artifact.name, artifact.data)


def _require_empty(context: Context) -> None:
    """Raise Misconfigured if the store is in use: `tidy` would delete another service's objects as unknown ones."""
    for prefix in ("samples", "prompts", "layouts", "adapted"):
        if next(iter(context.store.names(prefix)), None) is not None:
            raise Misconfigured(
                f"This registry is new, and {context.settings.store_url} contains {prefix} of another one. Use that "
                "registry, or a prefix of its own for this one; nothing has been changed."
            )

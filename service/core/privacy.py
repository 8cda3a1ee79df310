"""Closing the data folder, store and ledger to other users as a process starts, and logging what was open."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from service import private
from service.artifacts.opening import ledger_folder, store_folder
from service.private import Mended
from service.settings import Settings

log = logging.getLogger(__name__)


def keep_private(settings: Settings, *, thorough: bool = False) -> threading.Thread | None:
    """Close data folder, store and ledger to all users but their owner, now and for files that this process will make.

    The folders, and what lies directly in them, are closed before this returns; other users can then reach nothing
    below them. Everything below is closed in a thread, which is returned: a store may have millions of files. That is
    done if anything was open, or if `thorough`. Nothing is created. Raises Misconfigured for a folder that is shared
    with other users.
    """
    private.restrict_umask()
    roots = _roots(settings)
    for root in roots:
        private.require_own(root)
    found = [private.mend_top(root) for root in roots]
    for root, mended in zip(roots, found, strict=True):
        _tell(root, mended)
    if not thorough and not any(mended.closed for mended in found):
        return None
    thread = threading.Thread(target=_mend_rest, args=(roots,), name="privacy", daemon=True)
    thread.start()
    return thread


def _roots(settings: Settings) -> list[Path]:
    """Data folder, store and ledger, each once and with links resolved: a folder may be a link to another disk."""
    data = settings.data_dir.absolute()
    store = store_folder(settings.store_url) if settings.store_url else data / "objects"
    ledger = ledger_folder(settings.ledger_url) if settings.ledger_url else None
    return list(dict.fromkeys(folder.resolve() for folder in (data, store, ledger) if folder is not None))


def _mend_rest(roots: list[Path]) -> None:
    for root in roots:
        _tell(root, private.mend_all(root))


def _tell(root: Path, mended: Mended) -> None:
    if mended.closed:
        log.warning(
            "%s was open to other users: %d files and folders are closed to them from now on (the first: %s)",
            root, len(mended.closed), mended.closed[0],
        )  # fmt: skip
    for path, reason in list(mended.left_open.items())[:1]:
        log.warning(
            "%s is open to other users, and this process cannot close %d files and folders there (%s: %s)",
            root, len(mended.left_open), path, reason,
        )  # fmt: skip

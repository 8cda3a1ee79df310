"""The embedded broker: kombu's filesystem transport, with messages that appear whole (docs/decisions/0001).

The stock transport creates a message under its final name and then writes it; a worker that looks in between reads an
empty file and dies. Here a message is written beside and renamed, and one that cannot be read is dropped: any
notification may be lost.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from queue import Empty
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads
from kombu.utils.scheduling import FairCycle

from service import private

LONGEST_LOOK = 0.3  # seconds


class _InOrder(FairCycle):
    """A cycle that asks the first queue first, every time: deletions before additions, not in turn."""

    def get(self, callback: Any, **keywords: Any) -> Any:
        self.pos = 0
        return super().get(callback, **keywords)


class FolderChannel(filesystem.Channel):
    """A channel that reads and writes messages as whole files."""

    def _reset_cycle(self) -> None:
        self._cycle = _InOrder(self._get_and_deliver, self._active_queues, Empty)

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:  # type: ignore[override]  # as its parent does
        folder = Path(self.data_folder_out)
        name = f"{time.time_ns()}_{uuid4().hex}.{queue}.msg"
        whole = folder / f".{name}"  # a leading dot: no queue's name begins like that
        with open(whole, "x", opener=private.opener) as file:
            file.write(dumps(payload))
        whole.rename(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        del timeout  # a look, never a wait
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            path = Path(self.data_folder_in, name)
            try:
                text = path.read_text()
                path.unlink()
                return loads(text)
            except (FileNotFoundError, ValueError):  # another worker has it, or it is unreadable
                continue
        raise Empty


class FolderTransport(filesystem.Transport):
    """Named in Celery's `broker_transport`."""

    Channel = FolderChannel

    def drain_events(  # type: ignore[override]  # as its parent does
        self, connection: Any, timeout: float | None = None
    ) -> None:
        """Look for messages, but briefly: Celery would wait 2 s before it sees that the worker was told to stop."""
        super().drain_events(connection, timeout=min(timeout, LONGEST_LOOK) if timeout is not None else None)

"""Liveness of the API: a thread asks for it again and again, so that the supervisor itself waits for no answer."""

from __future__ import annotations

import http.client
import threading
import time

ASK_SECONDS = 5.0  # between two questions
ANSWER_SECONDS = 15.0  # for one answer
PATIENCE = 60.0  # silence that is no load any more: requests and images have shorter deadlines of their own
FIRST_PATIENCE = 300.0  # ... of a process that has not answered yet: it loads, on whatever disk


class Pulse:
    """When the API last answered `GET /health/live`, with whatever status."""

    def __init__(self, host: str, port: int, *, patience: float = PATIENCE, first: float = FIRST_PATIENCE) -> None:
        """host  where it is found, not where it listens. Times are in seconds."""
        self._address = (host, port)
        self._patience, self._first = patience, first
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._has_answered = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="pulse", daemon=True)

    def begin(self) -> None:
        """A new process has been started."""
        with self._lock:
            self._since, self._has_answered = time.monotonic(), False
        if not self._thread.is_alive() and not self._stop.is_set():
            self._thread.start()

    def silence(self) -> float:
        """Seconds that it has not answered for, if those are too many; else 0."""
        with self._lock:
            silent = time.monotonic() - self._since
            return silent if silent > (self._patience if self._has_answered else self._first) else 0.0

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _listen(self) -> None:
        while not self._stop.wait(min(ASK_SECONDS, self._patience / 4)):
            asked = time.monotonic()
            if self._answers():
                with self._lock:
                    if self._since <= asked:  # not the answer of an earlier process
                        self._since, self._has_answered = time.monotonic(), True

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(*self._address, timeout=min(ANSWER_SECONDS, self._patience / 2))
        try:
            connection.request("GET", "/health/live", headers={"Connection": "close"})
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

"""Talking to a running service: address and key from the environment, or from the data folder beside us."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from service.errors import Misconfigured, ServiceError

TIMEOUT = httpx.Timeout(120.0, connect=5.0)
TRIES = 30


class Refused(ServiceError):
    """The service answered with a problem."""

    status = 400
    title = "Refused"


class Client:
    """Calls of the HTTP API, by name. Safe to use from several threads, which share its connections."""

    def __init__(self, url: str, key: str | None) -> None:
        self.key = key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._given_up = threading.Event()
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT)

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """The decoded answer. Waits where it is told to (429, 503). Raises Refused with the problem's words."""
        for _ in range(TRIES):
            try:
                response = self._http.request(method, path, **arguments)
            except httpx.ConnectError:
                raise Refused(f"Nothing answers at {self._http.base_url}. Start it with `oubli serve`.") from None
            except httpx.TransportError as error:
                raise Refused(f"The connection broke ({type(error).__name__}). Try again.") from None
            if response.status_code not in (429, 503):
                break
            if self._given_up.wait(float(response.headers.get("Retry-After", "1"))):
                break
        if response.is_error:
            raise Refused(_words(response))
        return response.json()

    def give_up(self) -> None:
        """Nobody waits for a service that has no time any more: its refusals are answers."""
        self._given_up.set()

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list."""
        cursor: str | None = None
        while True:
            given = {"limit": 200, **query, **({"cursor": cursor} if cursor else {})}
            page = self.request("GET", path, params=given)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def is_ready(self) -> bool:
        """What /health/ready says; False while nothing answers."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False


def _words(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{problem['title']}: {problem['detail']}"
    except (ValueError, KeyError):
        return f"The service answered {response.status_code}."


def connect(url: str | None, data: Path) -> Client:
    """A client; the key is OUBLI_KEY, or the admin key that embedded mode left in the data folder."""
    key = os.environ.get("OUBLI_KEY")
    path = data / "admin-key"
    if not key:
        try:
            key = path.read_text().strip() if path.is_file() else None
        except PermissionError:
            raise Misconfigured(f"{path} cannot be read by this user. Set OUBLI_KEY.") from None
    return Client(url or os.environ.get("OUBLI_URL", "http://127.0.0.1:8000"), key)

"""Client of a running service: address and key from the environment, or from the local data folder."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

import httpx
import typer

from service.cli import answers
from service.cli.answers import JsonAnswer, Refused, Unreachable
from service.cli.folder import settings_of
from service.cli.printing import note, plain
from service.errors import Misconfigured

TIMEOUT = httpx.Timeout(120.0, connect=5.0)
TRIES = 30
PATIENCE = 60.0  # seconds of pauses before one request is given up
LEAST_PAUSE = 0.1
SILENT = 3.0  # seconds of pauses after which the caller is told what is waited for
DEFAULT_URL = "http://127.0.0.1:8000"

UrlOption = Annotated[
    str | None, typer.Option("--url", help=f"Where the service is [default: OUBLI_URL, or {DEFAULT_URL}].")
]


class Client:
    """Client of the HTTP API. Safe to use from several threads, which share its connections.

    Raises Misconfigured if address, key or the environment's proxies cannot be used.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.key = key
        headers = {"Authorization": f"Bearer {_checked_key(key)}"} if key else {}
        self._given_up = threading.Event()
        self._has_noted = False
        self._http = _open(_checked_url(url), headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> JsonAnswer:
        """The decoded answer. Waits where it is told to (429, 503). Raises Refused with the problem's words."""
        waited = 0.0
        for _ in range(TRIES):
            response = self._send(method, path, **arguments)
            if response.status_code not in (429, 503):
                break
            pause = max(LEAST_PAUSE, answers.pause_before_retry(response))
            if pause > answers.LONGEST_PAUSE:
                raise answers.refusal(response, f" Try again in {pause:.0f} s.")
            if waited + pause > PATIENCE:
                break
            if waited >= SILENT:
                self._note_wait(response)
            if self._given_up.wait(pause):
                break
            waited += pause
        return answers.read(response)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, UnicodeError) as error:  # the last: of a host's name
            kind = (
                Unreachable if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, UnicodeError)) else Refused
            )
            raise kind(_broken(error, self._http.base_url)) from None

    def _note_wait(self, response: httpx.Response) -> None:
        """Say on standard error, once, what the client waits for."""
        if not self._has_noted:
            self._has_noted = True
            note(f"Waiting: {plain(answers.refusal(response).detail)}")

    def give_up(self) -> None:
        """Wait for no retry any more: a refusal of the service is an answer from now on."""
        self._given_up.set()

    def pages(self, path: str, **query: Any) -> Iterator[JsonAnswer]:
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
        """What /health/ready says; False while nothing answers, or nothing that can be read."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.RequestError:  # nothing, or nothing that is HTTP
            return False


def _open(url: str, headers: dict[str, str]) -> httpx.Client:
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT)
    except ImportError:  # httpx looks at the environment's proxies, whatever the address
        raise Misconfigured(
            "The environment names a SOCKS proxy (ALL_PROXY or another *_PROXY), and Python's package for such is "
            "missing. Unset the variable, or: pip install 'httpx[socks]'."
        ) from None
    except (ValueError, httpx.InvalidURL) as error:
        raise Misconfigured(f"The environment names a proxy (*_PROXY) that is no address: {error}.") from None
    except OSError as error:  # of certificates that the environment names
        raise Misconfigured(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error.strerror or error}.") from None


def _broken(error: Exception, url: httpx.URL) -> str:
    """Why there is no answer, and what to do about it."""
    reason: BaseException = error
    while (before := reason.__cause__ or reason.__context__) is not None:
        reason = before
    if isinstance(reason, ssl.SSLError):
        return f"No secure connection to {url}: {reason.reason or reason}. Is it https that is spoken there?"
    if isinstance(error, httpx.ProxyError):
        return f"The proxy that the environment names refuses: {error}. Unset *_PROXY, or name {url.host} in NO_PROXY."
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return (
            f"Nothing answers at {url}{_by_proxy(url)}. Start it with `oubli serve`, or say where it is: --url, or "
            "OUBLI_URL."
        )
    if isinstance(error, UnicodeError):
        return f"{url} names no host that there can be. See --url, and OUBLI_URL."
    if isinstance(error, httpx.TimeoutException):
        return f"{url} has not answered for {TIMEOUT.read:.0f} s. Try again."
    if isinstance(error, httpx.RemoteProtocolError):
        return f"What answers at {url} broke off, or does not speak HTTP ({error}). Try again, or see --url."
    if isinstance(error, (httpx.DecodingError, httpx.InvalidURL)):
        return f"The answer of {url} cannot be read ({error}). Is it Oubli that answers there? See --url."
    return f"The connection to {url} broke ({type(error).__name__}). Try again."


def _by_proxy(url: httpx.URL) -> str:
    """A note that a proxy of the environment may be the cause: the error does not say so."""
    from urllib.request import getproxies, proxy_bypass  # late: only a failure asks

    named = {"all", url.scheme} & getproxies().keys()
    return f" (by the proxy that {min(named).upper()}_PROXY names)" if named and not proxy_bypass(url.host) else ""


def _checked_url(given: str) -> str:
    """Without blanks around it. Raises Misconfigured unless it is where an HTTP service can be."""
    text = given.strip()
    unusable = f"The service's address '{plain(text)}' cannot be used. It looks like {DEFAULT_URL}."
    try:
        url = httpx.URL(text)
        host, port = url.host, url.port
    except (httpx.InvalidURL, ValueError):  # the latter also for a name that IDNA does not know
        raise Misconfigured(unusable) from None
    if url.userinfo:
        raise Misconfigured("The service's address must hold no name and password: give the key in OUBLI_KEY.")
    if url.scheme not in ("http", "https") or not host or "%" in host or not 1 <= (port or 1) <= 65535 or port == 0:
        raise Misconfigured(unusable)
    if url.query or url.fragment:
        raise Misconfigured(f"{unusable} Nothing like '?' or '#' follows.")
    return text


def _checked_key(key: str) -> str:
    """Raises Misconfigured for what no header can carry; without the key: it may be one, and a mistake added to it."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Misconfigured(
            "The API key (OUBLI_KEY, or the data folder's admin-key) holds blanks, line breaks or letters that no key "
            "has. Copy it again, whole and alone."
        )
    return key


def client_of(url: str | None, data: Path | None) -> Client:
    """As the options --url and --data say. Raises Misconfigured."""
    return connect(url, settings_of(data).data_dir)


def connect(url: str | None, data: Path) -> Client:
    """A client; the key is OUBLI_KEY, or the admin key that embedded mode left in the data folder."""
    key = os.environ.get("OUBLI_KEY", "").strip() or _key_in(data)
    return Client(url or os.environ.get("OUBLI_URL", "").strip() or DEFAULT_URL, key)


def _key_in(data: Path) -> str | None:
    path = data / "admin-key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise Misconfigured(f"{plain(path)} holds no key. Set OUBLI_KEY.") from None
    except OSError as error:
        raise Misconfigured(f"{plain(path)} cannot be read ({error.strerror}). Set OUBLI_KEY.") from None

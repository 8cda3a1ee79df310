"""Logs hold ids only: never owner references, labels, file names or images.

Every line of the process goes through one of the two formatters below: the service's own events, uvicorn's and
Celery's, Python's warnings, an uncaught exception. Of an exception its kinds and places are told, and its
words only if they are ours or the operating system's: a database's or a library's may quote a value. Other libraries
are heard from WARNING on, whatever the level: at DEBUG, SQLAlchemy would print the rows that it reads.

A line knows which request it belongs to. What a request leaves to others (a batch, the reconciler, a worker) is done
on behalf of it: `caused_by` says so, and `causes` is what to hand on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
IDS = ("sample", "cluster", "erasure", "worker", "prompt")  # `extra` that a JSON line has as fields
OURS = ("service", "workers", "models", "migrations")
TALKATIVE = ("uvicorn",)  # heard from INFO on; others from WARNING
MOST_CAUSES = 16  # requests that one piece of work is told to be of; the latest
MOST_WORDS = 2000  # characters of an event

_request: ContextVar[str | None] = ContextVar("oubli_request", default=None)
_causes: ContextVar[tuple[str, ...]] = ContextVar("oubli_causes", default=())


def configure(level: str = "INFO", style: str = "text") -> None:
    """Log to standard error: `text`, or `json`, one object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(style))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for ours in OURS:
        logging.getLogger(ours).setLevel(level.upper())
    for talkative in TALKATIVE:
        logging.getLogger(talkative).setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def formatter(style: str) -> logging.Formatter:
    """One of the two."""
    return JsonFormatter() if style == "json" else TextFormatter()


def say(words: str, style: str) -> None:
    """One line, written without the locks of logging: for handlers of signals, which must not wait."""
    record = logging.LogRecord("workers", logging.INFO, "", 0, "%s", (words,), None)
    os.write(2, f"{formatter(style).format(record)}\n".encode())


# --------------------------------------------------------------------------------------- which request a line is of


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """What is done within is this request's own."""
    token = _request.set(request_id)
    try:
        yield
    finally:
        _request.reset(token)


@contextmanager
def caused_by(request_ids: Iterable[object]) -> Iterator[None]:
    """What is done within is done on behalf of these requests, which may have been answered already."""
    named = [given for given in request_ids if isinstance(given, str)]
    token = _causes.set(tuple(dict.fromkeys(named))[-MOST_CAUSES:])
    try:
        yield
    finally:
        _causes.reset(token)


def causes() -> tuple[str, ...]:
    """The requests that what is done now is done for."""
    own = _request.get()
    return (own,) if own is not None else _causes.get()


# -------------------------------------------------------------------------------------------------------- formatters


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, event, and the requests that it is of."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """As always, and the requests."""
        record.message = _event(record)
        line = super().formatMessage(record)
        return f"{line}  [{' '.join(causes())}]" if causes() else line

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        """Without words that may quote a value."""
        return _exception(ei[1]) if ei[1] is not None else ""


class JsonFormatter(logging.Formatter):
    """For machines: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Fields in a fixed order; what there is not is left out."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": _event(record),
        }
        if (own := _request.get()) is not None:
            told["request_id"] = own
        elif handed_on := _causes.get():
            told["request_ids"] = list(handed_on)
        told |= {name: str(getattr(record, name)) for name in IDS if getattr(record, name, None) is not None}
        if record.exc_info and record.exc_info[1] is not None:
            told["exception"] = _exception(record.exc_info[1])
        return json.dumps(told, ensure_ascii=False)


def _event(record: logging.LogRecord) -> str:
    """The message; of those that quote an exception, only what is safe."""
    if record.name == "celery.app.trace" and isinstance(record.args, dict):
        return f"task {record.args.get('name')} has ended with an exception"
    words = record.getMessage()
    if record.name == "asyncio":  # its second line is the repr of a future, exception and all
        words = words.partition("\n")[0]
    return words[:MOST_WORDS]


def _exception(error: BaseException) -> str:
    """Kinds and places of an exception and of what led to it, the last one last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(_one(link) for link in reversed(chain))


def _one(error: BaseException) -> str:
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    words = _words(error)
    places = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{places}{kind}{f': {words}' if words else ''}"


def _words(error: BaseException) -> str:
    """What an exception says, as far as it cannot quote a value: ours, the system's, a database's code."""
    origin = type(error).__module__.partition(".")[0]
    if origin in OURS:
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or ""
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    if code is None and origin == "psycopg" and type(error).__name__ == "OperationalError":
        return str(error).partition("\n")[0]  # no connection: the words are of host and port
    return str(code) if isinstance(code, str) else ""


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("service").critical("ended by an exception", exc_info=(kind, error, where))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        given = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        logging.getLogger("service").error("a thread has ended by an exception", exc_info=given)

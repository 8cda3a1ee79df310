"""Log lines: one form for all loggers, with the requests that they are of, and without words that may quote a value."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from service import log
from service.errors import NotFound

SECRET = "ada-lovelace"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What has been logged as JSON since."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own: basicConfig would close them
    log.configure("DEBUG", "json")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers, (sys.excepthook, threading.excepthook) = handlers, hooks
    root.setLevel(level)


def test_a_line_is_an_object_with_time_level_logger_event_and_ids(lines: Lines) -> None:
    logging.getLogger("service.core").info("cluster %s\nserves", "c1", extra={"cluster": "c1", "label": SECRET})
    (line,) = lines()
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {"level": "INFO", "logger": "service.core", "event": "cluster c1\nserves", "cluster": "c1"}


def test_a_line_knows_its_request_in_threads_too(lines: Lines) -> None:
    logger = logging.getLogger("service")
    with log.request("r1"):
        logger.info("own")
        given = log.causes()
    with log.caused_by([*given, "r2", 7, "r1"]):
        logger.info("handed on")
    logger.info("of no request")
    own, handed_on, unbound = lines()
    assert own["request_id"] == "r1"
    assert handed_on["request_ids"] == ["r1", "r2"]
    assert not {"request_id", "request_ids"} & set(unbound)


def test_causes_are_bounded_and_the_latest_are_kept() -> None:
    with log.caused_by(str(i) for i in range(100)):
        assert log.causes() == tuple(str(i) for i in range(100 - log.MOST_CAUSES, 100))
    assert log.causes() == ()


def test_text_names_the_requests_at_the_end() -> None:
    record = logging.LogRecord("service", logging.INFO, "", 0, "erased %s", ("x",), None)
    with log.request("r1"):
        assert log.formatter("text").format(record).endswith("service  erased x  [r1]")
    assert log.formatter("text").format(record).endswith("service  erased x")


@pytest.mark.parametrize("style", ["text", "json"])
def test_words_of_an_exception_are_told_only_if_they_quote_nothing(style: str) -> None:
    def told(error: BaseException) -> str:
        try:
            raise error
        except BaseException:
            record = logging.LogRecord("service", logging.ERROR, "", 0, "failed", (), sys.exc_info())
        line = log.formatter(style).format(record)
        return str(json.loads(line)["exception"]) if style == "json" else line

    for error in (KeyError(SECRET), ValueError(f"no {SECRET}"), OSError(f"no {SECRET}")):
        words = told(error)
        assert type(error).__name__ in words
        assert "in told" in words  # where it was
        assert SECRET not in words
    assert "NotFound: There is no cluster 7." in told(NotFound("There is no cluster 7."))
    assert "FileNotFoundError: No such file" in told(
        FileNotFoundError(2, "No such file or directory", f"/{SECRET}.png")
    )
    assert SECRET not in told(FileNotFoundError(2, "No such file or directory", f"/{SECRET}.png"))


def test_what_led_to_an_exception_is_told_and_a_database_s_words_are_not(lines: Lines) -> None:
    engine = sa.create_engine("sqlite://", hide_parameters=True, poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE owners (ref TEXT UNIQUE)"))
            insert = sa.text("INSERT INTO owners VALUES (:ref)")
            connection.execute(insert, {"ref": SECRET})
            connection.execute(insert, {"ref": SECRET})
    except sa.exc.IntegrityError:
        logging.getLogger("service").exception("refused")
    finally:
        engine.dispose()
    told = lines()
    assert SECRET not in json.dumps(told)
    refused = next(line for line in told if line["event"] == "refused")
    assert "sqlite3.IntegrityError: SQLITE_CONSTRAINT_UNIQUE" in refused["exception"]
    assert "sqlalchemy.exc.IntegrityError" in refused["exception"]


def test_rows_that_a_library_would_print_are_not_heard(lines: Lines) -> None:
    """SQLAlchemy prints every row that it reads where its logger hears DEBUG."""
    engine = sa.create_engine("sqlite://", hide_parameters=True)
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT '{SECRET}'")).scalar() == SECRET
    engine.dispose()
    logging.getLogger("python_multipart").debug("part %s", SECRET)
    logging.getLogger("service").debug("ours is heard")
    assert [line["event"] for line in lines()] == ["ours is heard"]


def test_warnings_uncaught_exceptions_and_foreign_reprs_are_lines_too(lines: Lines) -> None:
    def fail() -> None:
        raise KeyError(SECRET)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task exception=%s>", SECRET)
    context = {"name": "oubli.train", "id": "1", "description": "raised unexpected", "exc": SECRET, "traceback": SECRET}
    logging.getLogger("celery.app.trace").error("Task %(name)s[%(id)s] %(description)s: %(exc)s", context)
    told = lines()
    assert SECRET not in json.dumps(told)
    assert [line["level"] for line in told] == ["ERROR", "CRITICAL", "WARNING", "ERROR", "ERROR"]
    assert "this is old" in told[2]["event"]
    assert told[3]["event"] == "Task exception was never retrieved"
    assert "oubli.train" in told[4]["event"]


def test_a_signal_s_handler_says_a_line_without_logging_s_locks() -> None:
    script = "from service import log; log.say('worker: Warm shutdown', 'json')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["event"] == "worker: Warm shutdown"

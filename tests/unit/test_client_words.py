"""Whatever answers, or does not: every client command says one line of words, and ends with 1 or 2."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from service.cli import client as clients
from service.cli.answers import pause_before_retry
from tests.answering import Reply, Request, answering, problem, said
from tests.commands import Done, command

NOBODY = "http://127.0.0.1:9"
PROXIES = [name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OUBLI_")] + PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUBLI_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(clients, "LEAST_PAUSE", 0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "album" / "cat" / "one.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff")
    return path.parents[1]


def assert_one_line(done: Done, *words: str, codes: tuple[int, ...] = (1,)) -> None:
    assert done.code in codes, done
    (line,) = done.err.splitlines()
    assert line.startswith("oubli: ")
    for word in words:
        assert word in line, done


CLIENT_COMMANDS = {
    "status": ["status"],
    "quality": ["quality"],
    "predict": ["predict", "FOLDER/cat/one.jpg"],
    "erase": ["erase", "--owner", "ada", "--yes"],
    "retry": ["retry"],
    "ingest": ["ingest", "FOLDER", "--owner", "ada"],
}


@pytest.fixture(params=CLIENT_COMMANDS)
def client_command(request: pytest.FixtureRequest, folder: Path) -> list[str]:
    return [word.replace("FOLDER", str(folder)) for word in CLIENT_COMMANDS[request.param]]


ELSEWHERE = {"Location": "https://oubli.example/login"}
ANSWERS = {
    "a page": (Reply(200, b"<html>hello</html>", {"Content-Type": "text/html; charset=utf-8"}), "(200) is text/html"),
    "nothing": (Reply(200), "(200) is empty"),
    "a list": (Reply(200, b"[]"), "JSON of another shape"),
    "null": (Reply(200, b"null"), "(200) is"),
    "another object": (said({"hello": "world"}), "says nothing of"),
    "garbage": (Reply(200, b"\xff\xfe\0"), "(200) is of no type"),
    "deep": (Reply(200, b"[" * 100_000), "(200) is of no type"),
    "not gzip": (Reply(200, b"no", {"Content-Encoding": "gzip"}), "cannot be read"),
    "308": (Reply(308, headers=ELSEWHERE), "points elsewhere, to https://oubli.example/login"),
    "302": (Reply(302, headers=ELSEWHERE), "points elsewhere, to https://oubli.example/login"),
    "304": (Reply(304), "(304) is empty"),
    "page 502": (Reply(502, b"<html>", {"Content-Type": "text/html"}), "502 (Bad Gateway), and not in Oubli's words"),
    "list 400": (Reply(400, b"[]"), "400 (Bad Request), and not in Oubli's words"),
    "problem": (problem(403, "Not with this key.", title="Forbidden"), "Forbidden: Not with this key."),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_every_odd_answer_is_one_line(case: str, client_command: list[str]) -> None:
    reply, words = ANSWERS[case]
    with answering(lambda _: reply) as url:
        done = command(*client_command, "--url", url)
    assert done.code == 1, done
    assert words in done.out + done.err
    assert len(done.err.splitlines()) <= 1
    if words not in done.out:  # where it may have been the only file's fault, it is named there
        assert_one_line(done, words)


def test_nothing_is_sent_to_where_an_answer_points() -> None:
    asked: list[Request] = []

    def elsewhere(request: Request) -> Reply:
        asked.append(request)
        return said({})

    with answering(elsewhere) as there, answering(lambda _: Reply(307, headers={"Location": there})) as url:
        assert_one_line(command("status", "--url", url), f"to {there}")
    assert asked == []


def test_nobody_there_and_no_http_are_told_apart() -> None:
    assert_one_line(command("status", "--url", NOBODY), f"Nothing answers at {NOBODY}", "oubli serve")
    with answering(lambda _: Reply()) as url:
        assert_one_line(command("status", "--url", url.replace("http:", "https:")), "No secure connection", "https")


# --------------------------------------------------------------------------------------------------- Retry-After


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2), (" 7 ", 7), ("0", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", 1), ("", 1), ("-3", 1),
        ("nan", 1), ("inf", 1), ("1e9", 1), ("²", 1), ("9" * 400, 999_999_999), ("Wed, 99 Foo 2015 07:28:00 GMT", 1),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", 1), ("Wed, 41 Oct 2015 07:28:00 GMT", 1),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float) -> None:
    headers = {"Retry-After": text.encode()} if text else {}
    assert pause_before_retry(httpx.Response(503, headers=headers)) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < pause_before_retry(httpx.Response(503, headers={"Retry-After": moment})) <= 100


def busy(times: int, **headers: str) -> Iterator[Reply]:
    for _ in range(times):
        yield said({"title": "Unavailable", "detail": "Not now."}, 503, **headers)
    while True:
        yield said({"items": [], "next_cursor": None})


@pytest.mark.parametrize("moment", ["Wed, 21 Oct 2015 07:28:00 GMT", "0"])
def test_it_waits_as_long_as_it_is_told_to_and_asks_again(moment: str) -> None:
    replies = busy(3, Retry_After=moment)
    with answering(lambda _: next(replies)) as url:
        done = command("retry", "--url", url)
    assert (done.code, done.out) == (0, "No cluster has failed.\n")


def test_it_does_not_wait_for_ever_and_says_why() -> None:
    replies = busy(1000, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    with answering(lambda _: next(replies)) as url:
        assert_one_line(command("retry", "--url", url), "Unavailable: Not now.")


def test_what_asks_for_more_patience_than_there_is_is_not_waited_for() -> None:
    replies = busy(1000, Retry_After="3600")
    with answering(lambda _: next(replies)) as url:
        assert_one_line(command("retry", "--url", url), "Unavailable: Not now.", "in 3600 s")


def test_a_long_wait_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "SILENT", 0.0)
    replies = busy(3, Retry_After="0")
    with answering(lambda _: next(replies)) as url:
        done = command("retry", "--url", url)
    assert done.err == "Waiting: Unavailable: Not now.\n"  # once


def test_nothing_to_predict_from_is_not_waited_for(folder: Path) -> None:
    asked: list[Request] = []

    def nothing_yet(request: Request) -> Reply:
        asked.append(request)
        return problem(409, "Nothing has been contributed yet.", title="Conflict")

    with answering(nothing_yet) as url:
        assert_one_line(command("predict", folder / "cat" / "one.jpg", "--url", url), "Nothing has been contributed")
    assert len(asked) == 1


# --------------------------------------------------------------------------------------- addresses, keys, proxies


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000", "http://", "ftp://x", "http://[::1", "http://h:99999", "http://h:0", "http://ho st", "//x",
        "http://h/?a=1", "http://h/#x", "http://a\nb", "http://\x1b[31m", "http://xn--zzzzzz", "file:///etc", "http://h:x",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_said(url: str) -> None:
    done = command("status", "--url", url)
    assert_one_line(done, "http://127.0.0.1:8000", codes=(2,))
    assert "\x1b" not in done.err


@pytest.mark.parametrize("url", ["http://.", "http://a..b"])
def test_a_host_that_cannot_be_is_said(url: str) -> None:
    assert_one_line(command("status", "--url", url), "names no host")


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    done = command("status", "--url", "http://ada:secret@127.0.0.1:9")
    assert_one_line(done, "OUBLI_KEY", codes=(2,))
    assert "secret" not in done.err


@pytest.mark.parametrize("key", ["ключ", "two\nlines", "two words", "\x00", "k\u00e9y"])
def test_a_key_that_no_header_can_carry_is_said_and_not_repeated(key: str, tmp_path: Path) -> None:
    (tmp_path / "admin-key").write_text(key)
    done = command("status", "--url", NOBODY)
    assert_one_line(done, "API key", "Copy it again", codes=(2,))
    assert key not in done.err


def test_a_key_with_a_line_break_at_its_end_is_that_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def answer(request: Request) -> Reply:
        sent.append(request.headers["Authorization"])
        return said({"items": [], "next_cursor": None})

    monkeypatch.setenv("OUBLI_KEY", "oubli_abc\r\n")
    with answering(answer) as url:
        assert command("retry", "--url", url).code == 0
    assert sent == ["Bearer oubli_abc"]


@pytest.mark.parametrize("made", ["bytes", "folder"])
def test_a_key_file_that_holds_none_is_said(made: str, tmp_path: Path) -> None:
    path = tmp_path / "admin-key"
    path.mkdir() if made == "folder" else path.write_bytes(b"\xff\xfe")
    assert_one_line(command("status", "--url", NOBODY), "admin-key", "OUBLI_KEY", codes=(2,))


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY", "https_proxy"])
def test_a_socks_proxy_without_its_package_is_said(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "socks5://127.0.0.1:1")
    assert_one_line(command("status", "--url", NOBODY), "SOCKS proxy", "httpx[socks]", codes=(2,))


def test_a_proxy_that_is_none_or_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "foo://x")
    assert_one_line(command("status", "--url", NOBODY), "proxy", codes=(2,))
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    assert_one_line(command("status", "--url", "http://oubli.example"), "by the proxy that HTTP_PROXY names")


def test_certificates_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert_one_line(command("status", "--url", NOBODY), "SSL_CERT_FILE", codes=(2,))


def test_other_programs_words_are_shown_and_not_obeyed() -> None:
    with answering(lambda _: problem(400, "\x1b]0;owned\x07[red]x[/] \u202ereversed")) as url:
        done = command("status", "--url", url)
    assert_one_line(done, r"\x1b]0;owned\x07[red]x[/] \u202ereversed")


def test_json_goes_to_standard_output_whatever_it_can_say() -> None:
    with answering(lambda _: said({"name": "José 🐈"})) as url:
        for encoding in ("utf-8", "ascii", "latin-1"):
            done = command("status", "--json", "--url", url, encoding=encoding)
            assert (done.code, json.loads(done.out)) == (0, {"name": "José 🐈"})

"""`oubli audit`, `retry` and `settings`: what they refuse, and what they print."""

from __future__ import annotations

import json

import pytest

from tests.answering import Reply, Request, answering, said
from tests.commands import ID, assert_one_line, command

pytestmark = pytest.mark.usefixtures("command_environment")


@pytest.mark.parametrize("text", ["nonsense", "", "-1", "1.5", "ALL", "²", "0x10", "01993c5e", f"{ID}/.."])
def test_an_audit_that_would_rebuild_nothing_is_refused(text: str) -> None:
    assert_one_line(command("audit", f"--rebuild={text}"), "neither `all`, nor a number, nor a cluster", code=2)


@pytest.mark.parametrize("text", ["nonsense", "../erasures", "x/../../owners/ada"])
def test_a_retry_of_what_is_no_cluster_is_refused_and_not_sent(text: str) -> None:
    asked: list[Request] = []
    with answering(lambda request: asked.append(request) or Reply()) as url:
        assert_one_line(command("retry", text, "--url", url), "no cluster's id", code=1)
    assert asked == []


def test_a_retry_says_which_in_json() -> None:
    failed = {"items": [{"id": ID, "state": "failed"}, {"id": "x", "state": "serving"}], "next_cursor": None}
    with answering(lambda request: said(failed if request.method == "GET" else {})) as url:
        assert json.loads(command("retry", "--json", "--url", url).out) == {"retried": [ID]}


def test_settings_in_json_are_those_of_the_table() -> None:
    table, told = command("settings").out, json.loads(command("settings", "--json").out)
    assert len(table.splitlines()) == len(told) + 2
    assert {"variable", "default", "description"} == set(told[0])

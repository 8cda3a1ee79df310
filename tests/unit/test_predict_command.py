"""`oubli predict`: what it prints, and what it does with files that are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.answering import Reply, Request, answering, problem, said
from tests.commands import ID, ODD, command

pytestmark = pytest.mark.usefixtures("command_environment")


def prediction(label: str) -> dict[str, object]:
    return {"label": label, "score": 0.5, "cluster": ID, "tier": "prompt [x]", "degraded": True, "head": "quick"}


def test_predictions_show_labels_and_names_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "photo [final][" / "].jpg"
    path.parent.mkdir()
    path.write_bytes(b"x")
    with answering(lambda _: said({"predictions": [prediction(ODD)]})) as url:
        done = command("predict", path, "--url", url)
        told = json.loads(command("predict", path, "--url", url, "--json").out)
    assert (done.code, done.err) == (0, "")
    for text in (str(path), ODD, ID, "prompt [x]", "degraded, quick head"):
        assert text in done.out
    assert told == {"predictions": [{"file": str(path), **prediction(ODD)}], "refused": []}


def picky(request: Request) -> Reply:
    """As the service: all images of a request, or none and the names of those that are at fault."""
    images = re.findall(rb'filename="\d+"\r\n(?:.+\r\n)*\r\n(.*)\r\n', request.body)
    bad = [{"field": f"image[{i}]", "detail": "No image."} for i, data in enumerate(images) if data == b"bad"]
    if bad:
        return problem(415, "No image.", title="Unsupported media type", errors=bad)
    return said({"predictions": [prediction(data.decode()) for data in images]})


def test_the_good_are_answered_and_the_bad_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.jpg", "bad.heic", "also-good.png", "folder", "missing.jpg")]
    for path, data in zip(paths, (b"cat", b"bad", b"dog"), strict=False):
        path.write_bytes(data)
    paths[3].mkdir()
    with answering(picky) as url:
        done = command("predict", *paths, "--url", url)
        told = command("predict", *paths, "--url", url, "--json")
        only_bad = command("predict", paths[1], "--url", url)
    assert done.code == told.code == only_bad.code == 1
    assert (done.err, told.err) == ("", "")
    rows = [line for line in done.out.splitlines() if "│" in line]
    assert len(rows) == 2
    assert "good.jpg" in rows[0]
    assert "cat" in rows[0]
    assert f"{paths[1]}: No image." in done.out
    assert f"{paths[3]}: is a folder." in done.out
    assert f"{paths[4]}: cannot be read: No such file or directory." in done.out
    answer = json.loads(told.out)
    assert [one["file"] for one in answer["predictions"]] == [str(paths[0]), str(paths[2])]
    assert [one["file"] for one in answer["refused"]] == [str(path) for path in (paths[1], paths[3], paths[4])]
    assert only_bad.out == f"{paths[1]}: No image.\n"


def test_where_a_request_is_refused_as_a_whole_files_are_sent_one_by_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        path.write_bytes(b"large" if path.name == "1.jpg" else b"ok")

    def small_proxy(request: Request) -> Reply:
        if b"large" in request.body:
            return Reply(413, b"<html>", {"Content-Type": "text/html"})
        return picky(request)

    with answering(small_proxy) as url:
        told = command("predict", *paths, "--url", url, "--json")
    answer = json.loads(told.out)
    assert told.code == 1
    assert [one["file"] for one in answer["predictions"]] == [str(paths[0]), str(paths[2])]
    assert [one["file"] for one in answer["refused"]] == [str(paths[1])]
    assert "413" in answer["refused"][0]["reason"]

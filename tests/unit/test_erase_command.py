"""`oubli erase`: it asks first, erases every owner that is named, and quotes without erasing."""

from __future__ import annotations

import json

import pytest

from tests.answering import Reply, Request, answering, problem, said
from tests.commands import ID, assert_one_line, command

pytestmark = pytest.mark.usefixtures("command_environment")


class Erasing:
    """A service that holds two samples of `ada` and of `bela [x]`, and of nobody else."""

    def __init__(self) -> None:
        self.erased: list[object] = []

    def __call__(self, request: Request) -> Reply:
        if request.method == "GET":
            return said(self.erasure(request.path.rsplit("/", 1)[1]))
        body = request.json
        if "owner" in body and body["owner"] not in ("ada", "bela [x]"):
            return problem(404, f"{body['owner']} has no samples.", title="Not found")
        if body.get("validate_only"):
            return said({"samples": 2, "clusters": [ID], "sample_epochs": 8, "seconds": 1.5})
        self.erased.append(body.get("owner") or body["samples"])
        return said(self.erasure(ID), 202)

    @staticmethod
    def erasure(name: str) -> dict[str, object]:
        clusters = [{"state": "restored"}, {"state": "retraining"}]
        return {"id": name, "state": "completed", "samples": 2, "clusters": clusters, "restored_at": None}


@pytest.mark.parametrize(
    ("answer", "is_erased"),
    [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yup\n", False), ("no\ny\n", False)],
)
def test_it_asks_before_it_erases(answer: str, is_erased: bool) -> None:
    service = Erasing()
    with answering(service) as url:
        done = command("erase", "--owner", "ada", "--url", url, stdin=answer)
    assert "owner ada: 2 samples, in 1 clusters." in done.err
    assert "[y/N]" in done.err
    assert (done.code == 0, service.erased) == ((True, ["ada"]) if is_erased else (False, []))
    assert ("Completed" in done.out) is is_erased
    if not answer:
        assert "--yes" in done.err


@pytest.mark.parametrize("option", ["--yes", "-y"])
def test_scripts_say_yes(option: str) -> None:
    service = Erasing()
    with answering(service) as url:
        done = command("erase", ID, "--url", url, option)
    assert (done.code, done.err, service.erased) == (0, "", [[ID]])
    assert f"Erasure {ID}: 2 samples" in done.out


def test_every_owner_is_erased_and_one_that_has_nothing_is_named() -> None:
    service = Erasing()
    owners = [word for name in ("ada", "nobody", "bela [x]", "ada") for word in ("--owner", name)]
    with answering(service) as url:
        done = command("erase", *owners, "--url", url, "--json", stdin="y\n")
        alone = command("erase", "--owner", "nobody", "--url", url, "--yes")
    assert service.erased == ["ada", "bela [x]"]
    assert done.code == 1
    assert "oubli: owner nobody: Not found: nobody has no samples." in done.err
    told = json.loads(done.out)
    assert [erasure["state"] for erasure in told["erasures"]] == ["completed"] * 2
    assert told["refused"] == [{"owner": "nobody", "reason": "Not found: nobody has no samples."}]
    assert_one_line(alone, "nobody has no samples", code=1)


def test_a_quote_erases_nothing_and_does_not_ask() -> None:
    service = Erasing()
    with answering(service) as url:
        one = command("erase", "--owner", "ada", "--quote", "--url", url)
        two = command("erase", "--owner", "ada", "--owner", "bela [x]", "--quote", "--url", url)
    assert (one.code, one.err, two.code, two.err) == (0, "", 0, "")
    assert json.loads(one.out)["samples"] == 2
    assert [quote["samples"] for quote in json.loads(two.out)] == [2, 2]
    assert service.erased == []


@pytest.mark.parametrize("arguments", [[], [ID, "--owner", "ada"]])
def test_what_to_erase_is_said_in_one_way(arguments: list[str]) -> None:
    assert_one_line(command("erase", *arguments, "--yes"), "either sample ids or --owner", code=1)

"""`oubli erase`: take samples back out of the model, once a person or `--yes` has said so."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from service.cli.answers import JsonAnswer, Refused
from service.cli.client import Client, UrlOption, client_of
from service.cli.folder import DataOption
from service.cli.printing import JsonOption, aside, plain, print_json, progress_bar, say
from service.errors import Invalid

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Subject:
    """What is to be erased by one request: an owner's everything, or samples."""

    owner: str | None
    samples: tuple[str, ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        """As `POST /erasures` wants it."""
        return {"owner": self.owner} if self.owner is not None else {"samples": list(self.samples)}

    def __str__(self) -> str:
        return f"owner {plain(self.owner)}" if self.owner is not None else f"{len(self.samples)} samples"


def erase(
    ids: Annotated[list[str] | None, typer.Argument(help="Sample ids.")] = None,
    owner: Annotated[list[str] | None, typer.Option(help="Everything of this owner; may be repeated.")] = None,
    quote: Annotated[bool, typer.Option("--quote", help="Only say what it would cost, as JSON.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; scripts must say so.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is completed: nothing that knows them exists.")] = True,
    restored: Annotated[
        bool, typer.Option("--restored", help="Wait longer: until every cluster serves a new prompt.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Take samples back out of the model, for good. Asks first; without an answer nothing is erased.

    Several owners are erased one after the other. If one of them has nothing, the others are erased all the same, and
    the exit status is 1.
    """
    if bool(ids) == bool(owner):
        raise Invalid("Give either sample ids or --owner.")
    subjects = [Subject(each) for each in dict.fromkeys(owner or ())] or [Subject(None, tuple(ids or ()))]
    refused: list[tuple[Subject, Refused]] = []
    with client_of(url, data) as client:
        if quote or not yes:
            subjects, quotes = _quotes(client, subjects, refused)
            if quote:
                print_json(quotes[0] if len(quotes) == 1 and not refused else quotes)
                _end(refused)
                return
            if subjects:
                _ask(subjects, quotes)
        erasures = _erase(client, subjects, refused, as_json)
        if wait or restored:
            erasures = [_finish(client, erasure, as_json, restored=restored) for erasure in erasures]
    if as_json:
        said = [{**subject.body, "reason": problem.detail} for subject, problem in refused]
        print_json({"erasures": erasures, "refused": said})
    _end(refused)


def _quotes(
    client: Client, subjects: Sequence[Subject], refused: list[tuple[Subject, Refused]]
) -> tuple[list[Subject], list[JsonAnswer]]:
    """What each would cost. Those that cannot be erased go to `refused`. A lone one's refusal is raised."""
    asked: list[Subject] = []
    quotes: list[JsonAnswer] = []
    for subject in subjects:
        try:
            quotes.append(client.request("POST", "/erasures", json={**subject.body, "validate_only": True}))
            asked.append(subject)
        except Refused as problem:
            _note(subject, problem, refused, alone=len(subjects) == 1)
    return asked, quotes


def _note(subject: Subject, problem: Refused, refused: list[tuple[Subject, Refused]], *, alone: bool) -> None:
    """What is wrong with one owner is wrong with that one; anything else ends the command."""
    if alone or problem.code not in (404, 409, 422):
        raise problem
    refused.append((subject, problem))


def _ask(subjects: Sequence[Subject], quotes: Sequence[JsonAnswer]) -> None:
    """Raises Invalid unless the answer is yes. One line is read, also from a pipe; an end of input is no answer."""
    for subject, answer in zip(subjects, quotes, strict=True):
        aside.print(f"{subject}: {answer['samples']} samples, in {len(answer['clusters'])} clusters.", soft_wrap=True)
    aside.print("Erase them? This cannot be undone. [y/N] ", end="")
    said = _line_of_input()
    if not said:
        aside.print()
        raise Invalid("Nothing was erased: there is no input to confirm from. Say --yes to erase without a question.")
    if said.strip().lower() not in ("y", "yes"):
        raise Invalid("Nothing was erased.")


def _line_of_input() -> str:
    """Empty at its end, or if there is none."""
    try:
        return sys.stdin.readline() if sys.stdin is not None else ""
    except UnicodeDecodeError:  # whatever it was, it was no yes
        return "?"


def _erase(
    client: Client, subjects: Sequence[Subject], refused: list[tuple[Subject, Refused]], as_json: bool
) -> list[JsonAnswer]:
    """The accepted erasures."""
    accepted: list[JsonAnswer] = []
    for subject in subjects:
        try:
            erasure = client.request("POST", "/erasures", json=subject.body)
        except Refused as problem:
            _note(subject, problem, refused, alone=len(subjects) == 1 and not refused)
            continue
        accepted.append(erasure)
        if not as_json:
            count = erasure["samples"]
            say(f"Erasure {plain(erasure['id'])}: {count} samples; no prompt that has seen them is in use.")
    return accepted


def _finish(client: Client, erasure: JsonAnswer, as_json: bool, *, restored: bool) -> JsonAnswer:
    done = wait_for(client, erasure["id"], restored=restored, apart=as_json)
    if not as_json:
        serving, touched = _serving(done), len(done["clusters"])
        say(f"Completed: nothing that knows them exists any more. {serving} of {touched} clusters serve a new prompt.")
    return done


def _serving(erasure: JsonAnswer) -> int:
    """Of how many touched clusters nothing is left to do."""
    return sum(cluster["state"] in ("restored", "removed") for cluster in erasure["clusters"])


def _end(refused: Sequence[tuple[Subject, Refused]]) -> None:
    for subject, problem in refused:
        aside.print(f"oubli: {subject}: {plain(problem.detail)}", soft_wrap=True, style="red")
    if refused:
        raise typer.Exit(1)


def wait_for(client: Client, erasure_id: str, *, restored: bool = False, apart: bool = False) -> JsonAnswer:
    """Follow an erasure until it is completed. Raises nothing on failed states: those are tried again.

    restored  ... and until every cluster that it touches serves a new prompt.
    apart     show how far it is on standard error.
    """
    with progress_bar(apart=apart) as bar:
        task = bar.add_task("Retraining", total=None)
        while True:
            erasure = client.request("GET", f"/erasures/{erasure_id}")
            touched, serving = len(erasure["clusters"]), _serving(erasure)
            bar.update(task, total=touched, completed=serving, description=f"Erasure: {erasure['state']}")
            if erasure["state"] == "completed" and (erasure["restored_at"] is not None or not restored):
                return erasure
            time.sleep(POLL_SECONDS)

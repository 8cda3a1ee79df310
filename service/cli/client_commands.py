"""Commands for a running service: status, retry."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from service.cli.client import UrlOption, client_of
from service.cli.folder import DataOption
from service.cli.printing import JsonOption, plain, print_json, say, show
from service.cli.quality import settings_of
from service.errors import Invalid


def retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[CLUSTER]...", help="Default: all that failed.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data: DataOption = None,
) -> None:
    """Try failed trainings again, now."""
    given = [_cluster_id(text) for text in ids or ()]
    with client_of(url, data) as client:
        chosen = given or [cluster["id"] for cluster in client.pages("/clusters") if cluster["state"] == "failed"]
        for cluster in chosen:
            client.request("POST", f"/clusters/{cluster}/retry")
            if not as_json:
                say(f"Cluster {plain(cluster)} is tried again.")
    if as_json:
        print_json({"retried": chosen})
    elif not chosen:
        say("No cluster has failed.")


def _cluster_id(text: str) -> str:
    """Raises Invalid for what is no id: it would become part of another path."""
    try:
        return str(UUID(text))
    except ValueError:
        raise Invalid(f"{plain(text)!r} is no cluster's id. `GET /clusters` lists them.") from None


def status(as_json: JsonOption = False, url: UrlOption = None, data: DataOption = None) -> None:
    """Print the status of the service."""
    with client_of(url, data) as client:
        answer = client.request("GET", "/status")
    if as_json:
        print_json(answer)
        return
    table = Table("", "", show_header=False)
    table.add_row("samples", f"{answer['samples']:,} of {answer['owners']:,} owners")
    if apart := answer["evaluation_samples"]:
        table.add_row("evaluation set", f"{apart:,} samples")
    table.add_row("clusters", _counts(answer["clusters"]))
    table.add_row("erasures", _counts(answer["erasures"]))
    alive = sum(worker["alive"] for worker in answer["workers"])
    table.add_row("workers", f"{alive} alive of {len(answer['workers'])}")
    for worker in answer["workers"]:
        table.add_row("", _worker(worker))
    closed_form = answer["closed_form"]
    known = f"{closed_form['samples']:,} samples, {closed_form['digest']}" if closed_form else "off, or starting"
    table.add_row("closed form", known)
    if closed_form:
        table.add_row("", plain(settings_of(closed_form)))
    table.add_row("backbone", plain(f"{answer['backbone']['name']} on {answer['device']}"))
    show(table)


def _worker(worker: dict[str, Any]) -> str:
    heard, claimed = (worker[name] or "never" for name in ("heard_at", "claimed_at"))
    state = "" if worker["alive"] else "SILENT, "
    listens = ", ".join(worker["queues"])
    return plain(f"{state}{worker['name']}: {worker['device']}, {listens}; notified {heard}, last training {claimed}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {plain(state)}" for state, count in sorted(counts.items())) or "none"

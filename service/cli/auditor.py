"""`oubli audit`: the auditor's command. Works on the data folder itself, beside a running service or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.progress import Progress, TaskID

from service.cli.failures import Misused
from service.cli.folder import DataOption, require_registry, settings_of
from service.cli.printing import JsonOption, plain, print_json, progress_bar, say
from service.loading import loading

if TYPE_CHECKING:
    from service.core.audit import Scope
    from service.core.context import Context
    from service.core.finding import Finding


def audit_command(
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Compute every embedding again.")] = False,
    rebuild: Annotated[
        str, typer.Option(help="Prompts to train again from nothing: all, a number, or a cluster's id.")
    ] = "0",
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Recompute the plan from the survivors, compare everything with it; exit 1 on any difference."""
    chosen = parse_rebuild(rebuild)
    settings = settings_of(data)
    require_registry(settings)
    with loading():  # late, with torch: no other command of `oubli` waits for it
        from service.core.environment import configure
        from service.core.opening import open_context

    configure(settings, threads=settings.training.threads)
    context = open_context(settings, read_only=True)
    try:
        scope = scope_of(context, embeddings=embeddings, rebuild=chosen)
        with progress_bar(apart=as_json) as bar:
            findings = _findings(context, scope, bar, aloud=not as_json)
    finally:
        context.registry.close()
    differences = sum(finding.comparable for finding in findings)
    unclear = len(findings) - differences
    if as_json:
        print_json({"differences": differences, "unclear": unclear, "findings": [vars(each) for each in findings]})
    else:
        say(f"{differences} differences" + (f", {unclear} that cannot be compared here." if unclear else "."))
    if differences:
        raise typer.Exit(1)


def _findings(context: Context, scope: Scope, bar: Progress, *, aloud: bool) -> list[Finding]:
    """All of them, each told when it is found."""
    from service.core.audit import audit

    tasks: dict[str, TaskID] = {}
    findings: list[Finding] = []

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(f"Checking {what}", total=total)
        bar.update(tasks[what], completed=done, total=total)

    for finding in audit(context, scope, advance=advance):
        findings.append(finding)
        if aloud:
            say(f"{plain(finding.subject)} {plain(finding.reason)}", style="red")
    return findings


def parse_rebuild(text: str) -> int | str | None:
    """What `--rebuild` asks for: so many prompts; that of a cluster, by its id; None for all.

    Raises Misused for anything else: an audit that rebuilt nothing must not look like one that found nothing.
    """
    if text == "all":
        return None
    if text.isascii() and text.isdecimal():
        return int(text[:9])
    try:
        return str(UUID(text))
    except ValueError:
        raise Misused(f"--rebuild {plain(text)!r} is neither `all`, nor a number, nor a cluster's id.") from None


def scope_of(context: Context, *, embeddings: bool, rebuild: int | str | None) -> Scope:
    """How deep to look; `rebuild` as `parse_rebuild` reads it.

    Raises Misused for a cluster that serves no prompt: there is nothing to compare with.
    """
    from service.core.audit import Scope
    from service.registry import clusters

    if rebuild is None:
        return Scope(embeddings, rebuild_all=True)
    if isinstance(rebuild, int):
        return Scope(embeddings, rebuild_count=rebuild)
    with context.registry.read() as session:
        cluster = clusters.get(session, rebuild)
    if cluster is None:
        raise Misused(f"--rebuild: there is no cluster {rebuild}. `GET /clusters` lists them.")
    if cluster.serving_key is None:
        raise Misused(f"--rebuild: cluster {rebuild} serves no prompt just now.")
    return Scope(embeddings, rebuild_cluster=rebuild)

"""`oubli audit`: the auditor's command. Works on the data folder itself, beside a running service or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID

from service.cli.desk import console, progress_bar
from service.cli.roles import DataOption
from service.errors import Misconfigured
from service.loading import loading
from service.settings import load_settings

if TYPE_CHECKING:
    from service.core.audit import Finding, Scope


def audit_command(
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Compute every embedding again.")] = False,
    rebuild: Annotated[str, typer.Option(help="Prompts to train again from nothing: all, a number, a cluster.")] = "0",
    data: DataOption = None,
) -> None:
    """Recompute the plan from the survivors, compare everything with it; exit 1 on any difference."""
    with loading():  # late, with torch: no other command of `oubli` waits for it
        from service.core.audit import audit
        from service.core.context import open_context
        from service.core.environment import configure
        from service.registry.engine import is_migrated

    settings = load_settings(data_dir=data)
    if not is_migrated(settings.database):
        raise Misconfigured("There is no registry of this release here. Is the data folder right?")
    configure(settings, threads=settings.training.threads)
    context = open_context(settings, read_only=True)
    tasks: dict[str, TaskID] = {}
    findings: list[Finding] = []
    with progress_bar() as bar:

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"Checking {what}", total=total)
            bar.update(tasks[what], completed=done, total=total)

        for finding in audit(context, parse_scope(embeddings, rebuild), advance=advance):
            findings.append(finding)
            console.print(f"[red]{finding.subject}[/red] {finding.reason}", soft_wrap=True)
    context.registry.close()
    differences = sum(finding.comparable for finding in findings)
    unclear = len(findings) - differences
    console.print(f"{differences} differences" + (f", {unclear} that cannot be compared here." if unclear else "."))
    if differences:
        raise typer.Exit(1)


def parse_scope(embeddings: bool, rebuild: str) -> Scope:
    """What `--rebuild` asks for."""
    from service.core.audit import Scope

    if rebuild == "all":
        return Scope(embeddings, rebuild_all=True)
    if rebuild.isdigit():
        return Scope(embeddings, rebuild_count=int(rebuild))
    return Scope(embeddings, rebuild_cluster=rebuild)

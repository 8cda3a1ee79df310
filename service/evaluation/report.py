"""A study's figures as one row a method: JSON, a table for people, and two plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from service.errors import Misconfigured
from service.evaluation.forgetting import OWNED
from service.evaluation.methods import METHODS
from service.evaluation.study import Study


@dataclass(frozen=True)
class ReportRow:
    """One method over all seeds.

    costs    by what is forgotten ("1", "10", ..., "owner"): sample-epochs, seconds, models affected; means.
    shares   sample-epochs of each, of what building `retrain` takes (0 to 1); None if that was not built.
    exact    whether all trials gave what was never told, bit for bit; None without a trial.
    attacks  AUC with its interval, before forgetting and after.
    """

    method: str
    accuracy: tuple[float, float]
    prompts_alone: float | None
    models: float
    expected_cost: float
    sample_epochs: float
    seconds: float
    megabytes: float
    passes: float
    costs: dict[str, dict[str, float]]
    shares: dict[str, float] | None
    exact: bool | None
    attacks: dict[str, dict[str, float]] | None


def rows_of(study: Study, figures: Sequence[dict[str, Any]]) -> list[ReportRow]:
    """In the order of the study's methods."""
    whole = [run["sample_epochs"] for run in figures if run["method"] == "retrain" and run["seed"] is not None]
    return [_row(name, figures, float(np.mean(whole)) if whole else None) for name in study.methods]


def _row(name: str, figures: Sequence[dict[str, Any]], whole: float | None) -> ReportRow:
    runs = [run for run in figures if run["method"] == name and run["seed"] is not None]
    trials = [run for run in figures if run["method"] == name and run["kind"] == "trial"]
    accuracies = [run["accuracy"] for run in runs]
    costs = {
        cost["gone"]: {
            what: _mean(runs, lambda run, i=i, what=what: run["costs"][i][what])
            for what in ("sample_epochs", "seconds", "touched")
        }
        for i, cost in enumerate(runs[0]["costs"])
    }
    alone = [run["prompts_alone"] for run in runs if run["prompts_alone"] is not None]
    return ReportRow(
        method=name,
        accuracy=(float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0),
        prompts_alone=float(np.mean(alone)) if alone else None,
        models=_mean(runs, lambda run: run["models"]),
        expected_cost=_mean(runs, lambda run: run["expected_cost"]),
        sample_epochs=_mean(runs, lambda run: run["sample_epochs"]),
        seconds=_mean(runs, lambda run: run["seconds"]),
        megabytes=_mean(runs, lambda run: run["bytes"]) / 1e6,
        passes=runs[0]["passes"],
        costs=costs,
        shares={gone: cost["sample_epochs"] / whole for gone, cost in costs.items()} if whole else None,
        exact=all(value for trial in trials for value in trial["exact"].values()) if trials else None,
        attacks={when: trials[0][f"attack_{when}"] for when in ("before", "after")} if trials else None,
    )


def _mean(runs: Sequence[dict[str, Any]], value: Any) -> float:
    return float(np.mean([value(run) for run in runs]))


# ------------------------------------------------------------------------------------------------------------ tables


def _quality(rows: Sequence[ReportRow]) -> Iterator[list[str]]:
    """What each method gives, and what is left of it."""
    yield ["method", "accuracy", "models", "sum(n²)/N", "MB", "passes", "exact", "attack before", "attack after"]
    for row in rows:
        accuracy = f"{row.accuracy[0]:.4f} ± {row.accuracy[1]:.4f}"
        if row.prompts_alone is not None:
            accuracy += f" (prompts alone: {row.prompts_alone:.4f})"
        exact = {None: "", True: "yes", False: "NO"}[row.exact]
        attacks = [_auc(row.attacks[when]) if row.attacks else "" for when in ("before", "after")]
        sizes = [f"{row.models:,.0f}", f"{row.expected_cost:,.0f}", f"{row.megabytes:,.1f}", f"{row.passes:g}"]
        yield [row.method, accuracy, *sizes, exact, *attacks]


def _costs(rows: Sequence[ReportRow]) -> Iterator[list[str]]:
    """What forgetting takes: share of building `retrain`, or sample-epochs without it; seconds; models affected."""
    yield ["forgetting", *(name if name != "owner" else f"an owner ({OWNED})" for name in rows[0].costs)]
    for row in rows:
        cells = []
        for gone, cost in row.costs.items():
            share = f"{100 * row.shares[gone]:.1f} %" if row.shares else f"{cost['sample_epochs']:,.0f}"
            cells.append(f"{share}; {_seconds(cost['seconds'])}; {cost['touched']:.3g}")
        yield [row.method, *cells]


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:,.0f} s"


def _auc(attack: dict[str, float]) -> str:
    return f"{attack['auc']:.2f} ({attack['low']:.2f}-{attack['high']:.2f})"


def worth_of(figures: Sequence[dict[str, Any]]) -> str | None:
    """One sentence on whether prompts earn their place; None if it was not looked at."""
    judged = [cluster for run in figures if run["kind"] == "worth" for cluster in run["clusters"]]
    if not judged:
        return None
    better = sum(cluster["prompt"] > cluster["head"] for cluster in judged)
    members = sum(cluster["members"] for cluster in judged)
    means = [sum(cluster[way] * cluster["members"] for cluster in judged) / members for way in ("prompt", "head")]
    return (
        f"By cross-validation inside each of {len(judged)} clusters, prompt and head beat the head alone in {better}: "
        f"{means[0]:.4f} of the members are named rightly, and {means[1]:.4f}."
    )


def markdown(rows: Sequence[ReportRow]) -> str:
    """Both tables for a document."""
    tables = []
    for title, *lines in (_quality(rows), _costs(rows)):
        tables.append("\n".join(f"| {' | '.join(cells)} |" for cells in (title, ["---"] * len(title), *lines)))
    return "\n\n".join(tables) + "\n"


def tables(rows: Sequence[ReportRow], title: str) -> Iterator[Table]:
    """Both tables for a terminal."""
    for name, (head, *lines) in ((title, _quality(rows)), ("What forgetting takes", _costs(rows))):
        shown = Table(*head, title=name)
        for cells in lines:
            shown.add_row(*cells)
        yield shown


def write(study: Study, figures: Sequence[dict[str, Any]], about: dict[str, Any]) -> list[Path]:
    """Everything, as files in the study's folder: figures.json, table.md, accuracy.png, deletions.png."""
    rows = rows_of(study, figures)
    study.out.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "rows": [row.__dict__ for row in rows], "runs": list(figures)}
    paths = [study.out / name for name in ("figures.json", "table.md", "accuracy.png", "deletions.png")]
    paths[0].write_text(json.dumps(content, indent=1))
    paths[1].write_text("\n".join(filter(None, (markdown(rows), worth_of(figures)))))
    _plot_accuracy(rows, paths[2])
    _plot_deletions(rows, paths[3])
    return paths


# ------------------------------------------------------------------------------------------------------------- plots


_LEAST_SECONDS = 0.001  # below, the axes are linear: a cluster of one label costs nothing to train again


def check_plots() -> None:
    """Raise Misconfigured, with the remedy, where nothing can be plotted."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Misconfigured("oubli evaluate draws with matplotlib: pip install 'oubli-server[evaluate]'.") from None


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def _style(method: str) -> dict[str, str]:
    number = list(METHODS).index(method)
    return {"color": f"C{number}", "marker": "os^Dv<>Xp"[number % 9]}


def _plot_accuracy(rows: Sequence[ReportRow], path: Path) -> None:
    """Accuracy against what one deletion costs; upper left is best."""
    figure, axes = _axes("Accuracy and the cost of forgetting one sample", "seconds", "accuracy")
    axes.set_xscale("symlog", linthresh=_LEAST_SECONDS)
    for row in rows:
        cost, (mean, deviation) = row.costs["1"]["seconds"], row.accuracy
        style = _style(row.method)
        axes.errorbar(cost, mean, yerr=deviation, linestyle="none", capsize=3, **style)
        axes.annotate(row.method, (cost, mean), xytext=(6, 5), textcoords="offset points", color=style["color"])
    axes.margins(x=0.2)
    figure.savefig(path, dpi=120)


def _plot_deletions(rows: Sequence[ReportRow], path: Path) -> None:
    """What a deletion of more samples at once costs."""
    figure, axes = _axes("The cost of forgetting more at once", "random samples forgotten together", "seconds")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=_LEAST_SECONDS)
    for row in rows:
        counts = [int(gone) for gone in row.costs if gone != "owner"]
        axes.plot(
            counts, [row.costs[str(count)]["seconds"] for count in counts], label=row.method, **_style(row.method)
        )
    axes.legend(fontsize="small", bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.savefig(path, dpi=120)

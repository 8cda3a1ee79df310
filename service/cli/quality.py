"""The command `quality`."""

from __future__ import annotations

from rich.table import Table

from service.cli.answers import JsonAnswer
from service.cli.client import UrlOption, client_of
from service.cli.folder import DataOption
from service.cli.printing import JsonOption, plain, print_json, say, show

LABELS = 20  # in the table, those that are recognised worst
PAIRS = 10
STATES = {
    "waiting": "Not computed yet: it comes some seconds after the last change, and needs two samples.",
    "off": "Off: the service runs with quality.enabled or closed_form.enabled set to false.",
}
EVALUATION_STATES = {
    "none": "There is no evaluation set: contribute one with `oubli ingest --role evaluation`.",
    "waiting": "The evaluation set is not measured yet: it is some seconds after the last change.",
    "off": "The evaluation set is not measured: see above.",
}


def quality(as_json: JsonOption = False, url: UrlOption = None, data: DataOption = None) -> None:
    """Print how good the model is: each sample predicted by the closed form of all others, and the evaluation set."""
    with client_of(url, data) as client:
        answer = client.request("GET", "/quality")
    if as_json:
        print_json(answer)
    elif answer["state"] == "ready":
        _show(answer)
    else:
        say(STATES.get(answer["state"], plain(str(answer["state"]))))
    if not as_json:
        _show_evaluation(answer["evaluation"])


def _show(answer: JsonAnswer) -> None:
    table = Table("", "", show_header=False)
    table.add_row("samples", _samples(answer))
    table.add_row("accuracy", f"{answer['accuracy']:.4f}")
    table.add_row("calibration error", f"{answer['calibration_error']:.4f}")
    table.add_row("closed form", plain(answer["digest"]))
    table.add_row("", plain(settings_of(answer)))
    show(table)
    _show_details(answer)


def _samples(answer: JsonAnswer) -> str:
    since = f", {answer['added_since']:,} added since" if answer["added_since"] else ""
    return f"{answer['samples']:,} as of {plain(answer['as_of'])}{since}"


def _show_evaluation(answer: JsonAnswer) -> None:
    if answer["state"] != "ready":
        say(EVALUATION_STATES.get(answer["state"], plain(str(answer["state"]))))
        return
    table = Table("", "", title="evaluation set", title_justify="left", show_header=False)
    table.add_row("samples", _samples(answer))
    if answer["also_learned"]:
        table.add_row("not counted", f"{answer['also_learned']:,}: the closed form has learned from the same pictures")
    if answer["unknown_labels"]:
        table.add_row("not learned", ", ".join(map(plain, answer["unknown_labels"])))
    if answer["samples"]:
        low, high = answer["interval"]
        table.add_row("accuracy", f"{answer['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f})")
        table.add_row("calibration error", f"{answer['calibration_error']:.4f}")
    table.add_row("closed form", f"{plain(answer['digest'])}, of {answer['learned']:,} samples")
    show(table)
    if answer["samples"]:
        _show_details(answer)


def _show_details(answer: JsonAnswer) -> None:
    table = Table("confidence", "accuracy", "samples", title="reliability", title_justify="left")
    for part in answer["reliability"]:
        table.add_row(f"{part['confidence']:.3f}", f"{part['accuracy']:.3f}", f"{part['samples']:,}")
    show(table)
    _show_labels(answer["labels"])
    table = Table("label", "taken for", "samples", title="most frequent confusions", title_justify="left")
    for pair in answer["confusion"][:PAIRS]:
        table.add_row(plain(pair["label"]), plain(pair["predicted"]), f"{pair['samples']:,}")
    show(table)


def _show_labels(labels: list[JsonAnswer]) -> None:
    worst = sorted(labels, key=lambda one: (one["recall"], one["label"]))[:LABELS]
    title = "labels, least recall first" + (f" ({LABELS} of {len(labels):,})" if len(labels) > LABELS else "")
    table = Table("label", "samples", "recall", "precision", title=title, title_justify="left")
    for one in worst:
        precision = "-" if one["precision"] is None else f"{one['precision']:.3f}"
        table.add_row(plain(one["label"]), f"{one['samples']:,}", f"{one['recall']:.3f}", precision)
    show(table)


def settings_of(closed_form: JsonAnswer) -> str:
    """Lambda and temperature of a report or of the tier, and how they came about."""
    count = closed_form["chosen_from"]
    origin = f"chosen from {count:,} samples" if count else "not chosen"
    later = "" if closed_form.get("settled", True) else "; to be chosen anew"
    return f"lambda {closed_form['ridge']}, temperature {closed_form['temperature']}, {origin}{later}"

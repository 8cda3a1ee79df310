"""`oubli evaluate`: the paper's table, on data of your choice: accuracy, the cost of forgetting, exactness, attacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.printing import JsonOption, plain, print_json, progress_bar, say, show
from service.errors import Invalid

if TYPE_CHECKING:
    from service.evaluation.study import Bench, Study

QUICK = {"train": 240, "test": 60, "seeds": 1, "epochs": 1}  # a look in minutes; its figures mean nothing


def evaluate(
    method: Annotated[list[str] | None, typer.Option(help="One of the table's methods; all if not given.")] = None,
    data: Annotated[
        str, typer.Option(help="cifar10, cifar100, svhn, gtsrb, digits, a .npz file or a folder.")
    ] = "digits",
    data_root: Annotated[Path, typer.Option(help="Where named data sets are kept.")] = Path("data-sets"),
    download: Annotated[bool, typer.Option("--download", help="Fetch a named data set that is not there.")] = False,
    train: Annotated[int | None, typer.Option(help="Most images to learn from.", min=20)] = None,
    test: Annotated[int | None, typer.Option(help="Most images to ask about.", min=1)] = None,
    seeds: Annotated[int, typer.Option(help="Orders of arrival, hence trainings.", min=1)] = 3,
    backbone: Annotated[str, typer.Option(help="Frozen public backbone, by name.")] = "efficientnet-lite0",
    input_size: Annotated[int | None, typer.Option(help="Pixels of its input; its own if not given.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The paper's own file of that backbone.")] = None,
    md5: Annotated[str | None, typer.Option(help="The file's sum, if it is not the published one.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the samples, for every method that trains.", min=1)] = 4,
    prompt_kind: Annotated[str, typer.Option(help="padding, fixed_patch or random_patch.")] = "padding",
    prompt_size: Annotated[int | None, typer.Option(help="Pixels; an eighth of the input if not given.")] = None,
    prompt_init: Annotated[str, typer.Option(help="zero, normal, or a file of DAM-VP's meta prompt.")] = "zero",
    prompt_lr: Annotated[float, typer.Option(help="Peak learning rate of prompts.")] = 0.03,
    head_lr: Annotated[float, typer.Option(help="Peak learning rate of heads.")] = 0.05,
    cut: Annotated[int | None, typer.Option(help="Of feature prompts: stages that are left as they are.")] = None,
    feature_epochs: Annotated[
        int | None, typer.Option(help="Of feature prompts; as many as the service gives them if not given.", min=1)
    ] = None,
    core: Annotated[int, typer.Option(help="Samples of the core: the first to come, or others.", min=1)] = 1500,
    core_data: Annotated[str | None, typer.Option(help="Another data set that the core's samples are of.")] = None,
    cap: Annotated[int, typer.Option(help="Most samples in a cluster of the tree.", min=2)] = 250,
    least: Annotated[int, typer.Option("--min", help="Fewest samples in a cluster of the tree.", min=1)] = 50,
    shards: Annotated[int, typer.Option(help="Of SISA.", min=1)] = 10,
    slices: Annotated[int, typer.Option(help="Of SISA, in each shard.", min=1)] = 3,
    trial: Annotated[bool, typer.Option(help="Forget for real and attack, at a small scale.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Minutes, not hours; the figures mean nothing.")] = False,
    search: Annotated[int, typer.Option(help="Tries to find settings of one method in, instead of the table.")] = 0,
    gpus: Annotated[int, typer.Option(help="Devices to spread over; 0 for the CPU's cores.", min=0)] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes on the CPU; one a core if not given.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Folder of results; what is in it is not done again.")] = Path("evaluation"),
    as_json: JsonOption = False,
) -> None:
    """Print the paper's table: every method's accuracy, cost of forgetting, exactness and what an attacker learns."""
    from models.determinism import NotDeterministic, check
    from service.evaluation.method import Budget
    from service.evaluation.report import check_plots
    from service.evaluation.spread import Unfinished
    from service.evaluation.study import THREADS, Bench, Study
    from service.evaluation.trial import Scale

    check_plots()
    if quick:
        train, test = train or QUICK["train"], test or QUICK["test"]
        seeds, epochs, feature_epochs, core = QUICK["seeds"], QUICK["epochs"], QUICK["epochs"], min(core, 60)
        cap, least, shards, slices = min(cap, 80), min(least, 20), min(shards, 3), min(slices, 2)
    study = Study(
        data=data,
        root=data_root,
        out=out,
        methods=_known(method or []),
        train=train,
        test=test,
        seeds=seeds,
        backbone=backbone,
        input_size=input_size,
        checkpoint=checkpoint,
        md5=md5,
        budget=Budget(
            cap=cap,
            min=least,
            shards=shards,
            slices=slices,
            anchors=80 if quick else 1000,
            feature_epochs=feature_epochs,
            cut=cut,
            core=core,
        ),
        core_data=core_data,
        trial=(Scale(members=48, references=1) if quick else Scale()) if trial else None,
    )
    prompt = (prompt_kind, prompt_size, prompt_init)
    devices = [f"cuda:{index}" for index in range(gpus)] or ["cpu"] * (jobs or os.cpu_count() or 1)
    study = _with_training(study, epochs, prompt, prompt_lr, head_lr)
    try:
        for device in devices:  # a process that finds its own missing could not say so
            check(threads=THREADS, device=device)
        found = study.load_data(download=download)
        with progress_bar(apart=as_json) as bar:
            describing = bar.add_task("Describing", total=len(found.train) + len(found.test))
            bench = Bench(study, devices[0], lambda images: bar.advance(describing, images))
        bench.check()
        if search:
            _search(study, bench, search, as_json)
        else:
            _measure(study, bench, found.name, devices, as_json)
    except (ValueError, NotDeterministic, Unfinished) as error:  # a data set that is missing, too
        raise Invalid(str(error)) from None


def _known(methods: Sequence[str]) -> tuple[str, ...]:
    from service.evaluation.methods import METHODS

    if unknown := [name for name in methods if name not in METHODS]:
        raise Invalid(f"Unknown method {', '.join(unknown)}. Known: {', '.join(METHODS)}.")
    return tuple(dict.fromkeys(methods)) or tuple(METHODS)


def _with_training(
    study: Study, epochs: int, prompt: tuple[str, int | None, str], prompt_lr: float, head_lr: float
) -> Study:
    """With everything that is trained with; prompts need the backbone's size. Raises Invalid."""
    from models.backbone import UnknownBackbone
    from models.prompt import covered_pixels
    from models.spec import PromptSpec, TrainingSpec
    from service.evaluation.study import with_start

    kind, size, init = prompt
    try:
        input_size = study.load_backbone("cpu").input_size
        std = {"zero": 0.0, "normal": 1.0}.get(init, 0.0)
        spec = PromptSpec(kind=kind, size=size or max(1, input_size // 8), init_std=std)
        covered_pixels(spec, input_size)
        if any("feature" in name or name == "core" for name in study.methods):
            study.load_backbone("cpu").cuts.at(study.budget.cut)
        training = TrainingSpec(epochs=epochs, prompt_lr=prompt_lr, head_lr=head_lr, prompt=spec)
        study = replace(study, budget=replace(study.budget, training=training))
        return study if init in ("zero", "normal") else with_start(replace(study, meta_prompt=Path(init)))
    except (UnknownBackbone, ValueError) as error:
        raise Invalid(str(error)) from None


def _measure(study: Study, bench: Bench, name: str, devices: Sequence[str], as_json: bool) -> None:
    """The table, on a terminal and in files."""
    from models.determinism import fingerprint
    from service.evaluation.report import rows_of, tables, worth_of, write
    from service.evaluation.spread import run_all
    from service.evaluation.study import THREADS, tasks_of

    if study.trial is not None and len(bench.samples) < study.trial.samples:
        few = f"A trial needs {study.trial.samples} images to learn from, and there are {len(bench.samples)}"
        raise Invalid(f"{few}: use --no-trial.")
    tasks = tasks_of(study, len(bench.samples))
    with progress_bar(apart=as_json) as bar:
        spending = bar.add_task("Training, in sample-epochs", total=sum(tasks.values()))
        figures = run_all(study, list(tasks), devices, lambda _, spent: bar.advance(spending, spent))
        bar.update(spending, completed=sum(tasks.values()))
    about = _about(study, name, len(bench.samples), len(bench.queries), bench.backbone.digest)
    about["environment"] = fingerprint(threads=THREADS, device=devices[0])
    paths = write(study, figures, about)
    if as_json:
        print_json(
            {"about": about, "rows": [vars(row) for row in rows_of(study, figures)], "files": list(map(str, paths))}
        )
        return
    title = f"{plain(name)}: {about['train']:,} images to learn from, {about['test']:,} to ask about; {study.backbone}"
    for table in tables(rows_of(study, figures), title):
        show(table)
    say("Forgetting: sample-epochs (as a share of building `retrain`, if it was); seconds; models affected.")
    say(worth_of(figures) or "")
    say("Written: " + ", ".join(map(plain, paths)))


def _search(study: Study, bench: Bench, tries: int, as_json: bool) -> None:
    """Settings of the one method that is named."""
    from service.evaluation import search

    if len(study.methods) != 1:
        raise Invalid("A search is for one method: name it with --method.")
    (method,) = study.methods
    path = study.out / f"search-{method}.json"
    with progress_bar(apart=as_json) as bar:
        task = bar.add_task(f"Trying settings of {method}", total=tries)
        found = search.search(study, bench, method, tries, lambda: bar.advance(task))
    search.write(found, path)
    if as_json:
        print_json({"best": found.best, "importance": found.importance, "file": str(path)})
        return
    for title, values in (("Best", found.best), ("Importance", found.importance)):
        say(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    say(f"Written: {plain(path)}")


def _about(study: Study, name: str, train: int, test: int, digest: str) -> dict[str, Any]:
    from dataclasses import asdict

    settings = {key: value for key, value in asdict(study).items() if not isinstance(value, Path)}
    return {"data_set": name, "train": train, "test": test, "backbone_digest": digest, "settings": settings}

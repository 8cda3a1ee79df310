"""A study: its figures, kept and found again; its table and its plots."""

import dataclasses
import json
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from models.spec import PromptSpec, TrainingSpec
from service.evaluation import report, spread
from service.evaluation.method import Budget
from service.evaluation.study import Bench, Study, Task, tasks_of
from service.evaluation.trial import Scale

METHODS = ("tree", "retrain", "ridge", "head_only")


@pytest.fixture(scope="module")
def study(tmp_path_factory, deterministic):
    folder = tmp_path_factory.mktemp("study")
    training = TrainingSpec(epochs=2, prompt=PromptSpec(size=2))
    return Study(
        data="digits",
        out=folder / "out",
        root=folder,
        methods=METHODS,
        train=240,
        test=50,
        backbone="tiny",
        seeds=2,
        budget=Budget(training=training, cap=60, min=15, anchors=60, shards=3, slices=2),
        trial=Scale(members=48, references=1),
    )


@pytest.fixture(scope="module")
def bench(study):
    return Bench(study, "cpu")


@pytest.fixture(scope="module")
def figures(study, bench):
    return [bench.run(task) for task in tasks_of(study, 240)]


def test_every_method_has_every_seed_and_a_trial(study):
    tasks = list(tasks_of(study, 240))
    trials = {Task(name, None, "trial") for name in METHODS}
    assert set(tasks) == {Task(name, seed) for name in METHODS for seed in (0, 1)} | trials | {
        Task("tree", None, "worth")
    }
    assert tasks[0].method in ("tree", "retrain")  # the longest first


def test_a_task_that_is_done_is_not_done_again(bench, figures, monkeypatch):
    monkeypatch.setattr(Bench, "_table", lambda *_: pytest.fail("it was built again"))
    monkeypatch.setattr(Bench, "_trial", lambda *_: pytest.fail("it was tried again"))
    again = [bench.run(Task(run["method"], run["seed"], run["kind"])) for run in figures]
    assert json.dumps(again) == json.dumps(figures)


@pytest.mark.thorough
def test_a_task_that_fails_is_named_and_the_others_are_kept(study, tmp_path):
    study = dataclasses.replace(study, out=tmp_path)
    tasks = [Task("crystal_ball", 0), Task("ridge", 0), Task("linear", 0)]
    with pytest.raises(spread.Unfinished, match=r"^crystal_ball-0: Unknown method 'crystal_ball'[^\n]*$"):
        spread.run_all(study, tasks, ["cpu"], lambda task, spent: None)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "runs").iterdir()) == ["linear", "ridge"]


@pytest.fixture
def endless(study, tmp_path):
    """The same with trainings of half an hour."""
    training = dataclasses.replace(study.budget.training, epochs=10_000)
    return dataclasses.replace(study, out=tmp_path, budget=dataclasses.replace(study.budget, training=training))


@pytest.mark.thorough
def test_what_is_broken_off_ends_at_once(endless):
    def broken_off(task, spent):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread.run_all(endless, [Task("one_prompt", seed) for seed in range(3)], ["cpu"], broken_off)
    assert not multiprocessing.active_children()
    assert not list(endless.out.glob("runs/*"))


@pytest.mark.thorough
def test_a_process_that_is_killed_is_no_reason_to_wait(endless):
    """As the kernel does where memory runs out."""

    def killed(task, spent):
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(spread.Unfinished, match=r"one_prompt-0: .* terminated abruptly"):
        spread.run_all(endless, [Task("one_prompt", seed) for seed in range(3)], ["cpu"], killed)


def test_parts_that_are_built_are_found_again(bench, study, figures, monkeypatch):
    for path in (study.out / "runs").glob("tree-0-*.json"):
        path.unlink()
    spent = []
    again = bench.run(Task("tree", 0), spent.append)
    (first,) = (run for run in figures if (run["method"], run["seed"]) == ("tree", 0))
    assert spent == []
    assert {k: again[k] for k in ("accuracy", "sizes", "seconds")} == {
        k: first[k] for k in ("accuracy", "sizes", "seconds")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"budget": Budget(training=TrainingSpec(epochs=3, prompt=PromptSpec(size=2)), cap=60, min=15, anchors=60)},
        {"train": 239},
        {"test": 49},
        {"input_size": 24},
    ],
)
def test_other_settings_have_results_of_their_own(change, study, bench):
    other = Bench(dataclasses.replace(study, **change), "cpu")
    assert other.path_of(Task("ridge", 0)) != bench.path_of(Task("ridge", 0))


def test_seeds_are_orders_of_arrival(figures):
    tree = [run for run in figures if run["method"] == "tree" and run["seed"] is not None]
    ridge = [run for run in figures if run["method"] == "ridge" and run["seed"] is not None]
    assert sorted(tree[0]["sizes"]) == sorted(tree[1]["sizes"])
    assert tree[0]["prompts_alone"] != tree[1]["prompts_alone"]
    assert ridge[0]["accuracy"] == ridge[1]["accuracy"]


def test_rows_say_what_the_runs_found(study, figures):
    rows = {row.method: row for row in report.rows_of(study, figures)}
    assert list(rows) == list(METHODS)
    assert rows["retrain"].shares["1"] == pytest.approx(239 / 240)
    assert 0 < rows["tree"].shares["1"] < 0.6
    assert rows["ridge"].shares["1"] == 0
    assert rows["ridge"].costs["1"]["seconds"] > 0
    assert all(row.exact for row in rows.values())
    assert rows["tree"].prompts_alone is not None
    assert rows["head_only"].prompts_alone is None


def test_a_method_that_is_not_exact_is_shouted_at(study, figures):
    changed = json.loads(json.dumps(figures))
    for run in changed:
        if run["method"] == "tree" and run["kind"] == "trial":
            run["exact"]["one"] = False
    line = next(line for line in report.markdown(report.rows_of(study, changed)).splitlines() if "| tree |" in line)
    assert "| NO |" in line


def test_without_retrain_costs_are_sample_epochs(study, figures):
    some = dataclasses.replace(study, methods=("tree",))
    runs = [run for run in figures if run["method"] == "tree"]
    (row,) = report.rows_of(some, runs)
    assert row.shares is None
    assert f"{row.costs['1']['sample_epochs']:,.0f};" in report.markdown([row])


def test_what_prompts_are_worth_is_judged_inside_their_clusters(figures):
    (run,) = (run for run in figures if run["kind"] == "worth")
    assert 3 < len(run["clusters"]) <= 10
    assert sum(cluster["members"] for cluster in run["clusters"]) <= 240
    assert all(0 <= cluster[way] <= 1 for cluster in run["clusters"] for way in ("prompt", "head"))
    better = sum(cluster["prompt"] > cluster["head"] for cluster in run["clusters"])
    said = report.worth_of(figures)
    assert f"each of {len(run['clusters'])} clusters, prompt and head beat the head alone in {better}:" in said
    assert report.worth_of([run for run in figures if run["kind"] != "worth"]) is None


def test_files_are_written_and_plots_can_be_looked_at(study, figures):
    paths = report.write(study, figures, {"data_set": "digits"})
    assert [path.name for path in paths] == ["figures.json", "table.md", "accuracy.png", "deletions.png"]
    content = json.loads(paths[0].read_text())
    assert [row["method"] for row in content["rows"]] == list(METHODS)
    assert len(content["runs"]) == len(figures)
    for path in paths[2:]:
        with Image.open(path) as plot:
            assert plot.size[0] > 500
            assert len(np.unique(np.asarray(plot))) > 20


def test_a_trial_that_has_too_few_samples_says_how_many_it_needs(study):
    small = Bench(dataclasses.replace(study, train=100), "cpu")
    with pytest.raises(ValueError, match="needs 240 samples; there are 100"):
        small.run(Task("ridge", None, "trial"))


def test_a_search_tries_settings_on_held_out_samples_and_goes_on(study, bench, monkeypatch):
    from service.evaluation import search

    asked = []
    monkeypatch.setattr(search, "build", _noting(asked, search.build))
    found = search.search(study, bench, "linear", 3, lambda: None)
    assert asked == [[160]] * 3  # two of three samples are learned from
    assert len(found.tries) == 3
    assert found.tries[0]["prompt_lr"] == 0.03  # today's defaults first
    assert found.best["accuracy"] == max(one["accuracy"] for one in found.tries)
    more = search.search(study, bench, "linear", 5, lambda: None)
    assert more.tries[:3] == found.tries
    assert len(asked) == 5
    search.write(more, study.out / "found.json")
    accuracies = [one["accuracy"] for one in json.loads((study.out / "found.json").read_text())["tries"]]
    assert accuracies == sorted(accuracies, reverse=True)


def _noting(asked, build):
    def noting(method, survivors, **options):
        work = build(method, survivors, **options)
        asked.append([len(part.rows) for part in work.parts])
        return work

    return noting

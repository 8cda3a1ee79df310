"""What `oubli evaluate` cannot do it says, in words, before anything is trained."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch

from service.cli.evaluate import evaluate
from service.errors import Invalid
from service.evaluation import report, spread
from tests.commands import HIDDEN


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch, deterministic):
    monkeypatch.setattr(spread, "run_all", lambda *_: pytest.fail("it was trained"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": ["erase"]}, "Unknown method erase. Known: lmeraser, tree"),
        ({"data": "mnist"}, "Unknown data set 'mnist'. Known: cifar10"),
        ({"data": "cifar10"}, "cifar10 cannot be read"),
        ({"backbone": "resnet-of-mine"}, "Unknown backbone 'resnet-of-mine'"),
        ({"prompt_kind": "halo"}, "Unknown prompt kind 'halo'"),
        ({"prompt_size": 8}, "does not fit"),
        ({"prompt_init": "none.pth"}, "none.pth cannot be read"),
        ({"quick": False, "train": 60}, "A trial needs 2000 images to learn from, and there are 60: use --no-trial"),
        ({"cap": 10, "least": 8}, "partition.cap"),
        ({"method": ["core"], "cut": 9}, "The cut must be 1 to 1 for this backbone, not 9"),
        ({"method": ["core"], "core_data": "mnist"}, "Unknown data set 'mnist'"),
        ({"prompt_kind": "feature"}, "Unknown prompt kind 'feature'"),  # methods of their own have them
        ({"search": 2}, "A search is for one method"),
    ],
)
def test_what_cannot_be_done_is_said(options, said, tmp_path):
    usual = {"quick": True, "backbone": "tiny", "out": tmp_path / "out", "data_root": tmp_path}
    with pytest.raises(Invalid, match=said):
        evaluate(**(usual | options))


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path):
    with pytest.raises(Invalid, match="no published checkpoint of 'tiny'"):
        evaluate(backbone="tiny", checkpoint=tmp_path / "none.pth", out=tmp_path)


@pytest.mark.parametrize(("there", "said"), [(0, "finds no CUDA device"), (1, "device cuda:1: there are 1 CUDA")])
def test_a_gpu_that_is_not_there_is_said(there, said, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(Invalid, match=said):
        evaluate(quick=True, backbone="tiny", gpus=2, out=tmp_path)


@pytest.mark.parametrize("flip", [True, False])
def test_whether_mirror_images_are_seen_is_an_option(flip, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(spread, "run_all", lambda study, *_: asked.append(study) or [])
    with suppress(Exception):  # there are no figures to show
        evaluate(quick=True, backbone="tiny", method=["core"], train=60, test=20, trial=False, flip=flip, out=tmp_path)
    (study,) = asked
    assert study.budget.training.flip == study.budget.features.flip == flip
    assert study.load_backbone("cpu").kind.views == (2 if flip else 1)


def test_a_search_says_what_it_found(tmp_path, capsys):
    evaluate(quick=True, backbone="tiny", method=["linear"], train=60, test=20, search=2, out=tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "search-linear.json").read_text())
    assert len(found["tries"]) == 2
    assert f"Best: accuracy {found['best']['accuracy']:.4g}" in said


def test_the_table_names_its_data_as_they_are(tmp_path, monkeypatch, capsys):
    path = tmp_path / f"cat [tabby] [b]{HIDDEN}.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:20], test_labels=labels[:20])
    monkeypatch.setattr(spread, "run_all", lambda *_: [])
    monkeypatch.setattr(report, "rows_of", lambda *_: [])
    monkeypatch.setattr(report, "_costs", lambda _: iter([["forgetting"]]))
    monkeypatch.setattr(report, "worth_of", lambda _: None)
    monkeypatch.setattr(report, "write", lambda *_: [path])
    evaluate(data=str(path), method=["linear"], quick=True, trial=False, backbone="tiny", out=tmp_path)
    said = capsys.readouterr().out
    assert said.count(r"cat [tabby] [b]\x1b[2J\x07\u202e") == 2  # the title, and the file
    assert "\x07" not in said
    evaluate(data=str(path), method=["linear"], quick=True, trial=False, backbone="tiny", out=tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["about"]["data_set"], found["files"]) == (path.stem, [str(path)])

"""Deleted = never contributed, byte for byte: a service that forgot D serves what one serves that never saw D.

Two services over HTTP, real images. One is given S by several clients at once and asked to forget D
in every way there is, at every bad moment; the other is only ever given S \\ D, batched otherwise. Their prompts must
have the same digests, and their reports of quality must be equal, of the evaluation set too. `OUBLI_COUNTERFACTUALS`
sets how many random (S, D) are tried for each partition. The default partition is tried with the real backbone, the
others with the tiny one unless it is more than one (S, D) that is tried.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import partition
from models.backbone import Backbone, load_backbone
from models.embedding import embed
from tests import layouts
from tests.conftest import Images
from tests.integration.harness import Picture, Service, until

ROUNDS = int(os.environ.get("OUBLI_COUNTERFACTUALS", "1"))
SAMPLES = 72
HELD_OUT = 16  # evaluation samples beside them, of the same owners
OWNERS = 9
REAL = {
    "OUBLI_BACKBONE": "efficientnet-lite0",
    "OUBLI_TRAINING__EPOCHS": "2",
    "OUBLI_TRAINING__BATCH_SIZE": "16",
    "OUBLI_TRAINING__SETTLE_SECONDS": "0.2",
    "OUBLI_WORKER__RECONCILE_SECONDS": "1",
    "OUBLI_QUALITY__SETTLE_SECONDS": "0.2",
}
FAST = {**REAL, "OUBLI_BACKBONE": "tiny", "OUBLI_TRAINING__PROMPT_SIZE": "2"}
SETTINGS = {**layouts.KINDS, "tree": {"cap": 24, "min": 8}}  # for so many samples
KINDS = {kind: layouts.as_variables({**SETTINGS[kind], "kind": kind}) for kind in partition.KINDS}


CORE = ("owner 0", "owner 3", "owner 6")  # owners whose samples are the core, where a test has one
FEATURES = {"OUBLI_TRAINING__PROMPT_KIND": "feature"}


def picture(images: Images, index: int) -> Picture:
    file = BytesIO()
    Image.fromarray(images.pixels[index]).save(file, "PNG")
    return Picture(f"{index}.png", file.getvalue(), images.labels[index])


def fit_centroids(images: Images, backbone: Backbone, path: Path) -> Path:
    """Of public images: five that no client contributes."""
    resized = [backbone.preprocessing.resize(pixels) for pixels in images.pixels[-5:]]
    np.save(path, embed(backbone, resized))
    return path


class Contributor:
    """A client that contributes its pictures in order, some at a time; those of some owners for the core."""

    def __init__(self, service: Service, chance: random.Random, core: Sequence[str] = ()) -> None:
        self.service, self.chance, self.core = service, chance, core

    def give(self, given: Sequence[tuple[Picture, str]]) -> None:
        left = list(given)
        while left:
            count = self.chance.randint(1, 16)
            chunk, left = left[:count], left[count:]
            for is_core, run in groupby(chunk, key=lambda one: one[1].removesuffix(" again") in self.core):
                pictures, theirs = zip(*run, strict=True)
                self.service.contribute(pictures, theirs, role="core" if is_core else "training")


def at_once(*tasks: Callable[[], object]) -> None:
    with ThreadPoolExecutor(len(tasks)) as pool:
        for running in [pool.submit(task) for task in tasks]:
            running.result()


def forget(service: Service, chance: random.Random, doomed: list[str], owner: str) -> None:
    """Every way to forget: an owner, one by one, a batch; at rest, during training, with no worker."""
    client = service.client

    def delete(path: str) -> None:
        assert client.delete(path).status_code == 202

    during_training = [lambda: delete(f"/owners/{owner}")] + [
        (lambda sample=sample: delete(f"/samples/{sample}")) for sample in doomed[::3]
    ]
    deadline = time.monotonic() + 5  # where it has been trained already, what comes late is trained meanwhile
    while time.monotonic() < deadline and not any(c["state"] == "training" for c in service.pages("/clusters")):
        time.sleep(0.05)
    chance.shuffle(during_training)
    for step in during_training:
        step()
        time.sleep(chance.random() / 4)
    service.child("worker").send_signal(signal.SIGKILL)
    for sample in doomed[1::3]:
        delete(f"/samples/{sample}")
    answer = client.post("/erasures", json={"samples": doomed[2::3]})
    assert answer.status_code == 202, answer.text


def forgetful(
    service: Service, chance: random.Random, given: Sequence[tuple[Picture, str]], core: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Give all of S, by three clients at once, some of it late; forget D; the survivors in order of arrival."""
    late = len(given) * 3 // 4
    owner = chance.choice(given[:late])[1]
    shares = [given[i:late:3] for i in range(3)]
    contributors = [Contributor(service, random.Random(chance.random()), core) for _ in range(3)]
    at_once(*(lambda c=c, share=share: c.give(share) for c, share in zip(contributors, shares, strict=True)))
    listed = [sample for sample in service.pages("/samples") if sample["owner"] != owner]
    doomed = [sample["id"] for sample in chance.sample(listed, chance.randint(3, 18))]
    at_once(
        lambda: forget(service, chance, doomed, owner),
        lambda: contributors[0].give([(picture, f"{owner} again") for picture, _ in given[late:]]),
    )
    service.settle()
    survivors = service.pages("/samples")
    assert not {sample["id"] for sample in survivors} & set(doomed)
    survivors = [sample for sample in survivors if sample["role"] != "evaluation"]
    assert owner not in {sample["owner"] for sample in survivors}
    return survivors


def innocent(
    service: Service,
    chance: random.Random,
    groups: Sequence[Sequence[tuple[Picture, str]]],
    core: Sequence[str] = (),
) -> None:
    """Give S \\ D: the order within a group is kept, groups come at once."""
    contributors = [Contributor(service, random.Random(chance.random()), core) for _ in groups]
    at_once(*(lambda c=c, group=group: c.give(group) for c, group in zip(contributors, groups, strict=True)))
    service.settle()


@pytest.mark.real
@pytest.mark.timeout(300 + 240 * ROUNDS)
@pytest.mark.parametrize(
    "kind", ["tree", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in KINDS if kind != "tree")]
)
def test_forgotten_is_as_if_never_contributed(kind: str, images: Images, deterministic: None, tmp_path: Path) -> None:
    chosen = REAL if kind == "tree" or ROUNDS > 1 else FAST
    env = {**chosen, **KINDS[kind]}
    if kind == "pinned":
        path = fit_centroids(images, load_backbone(env["OUBLI_BACKBONE"]), tmp_path / "centroids.npy")
        env["OUBLI_PARTITION__CENTROIDS"] = str(path)
    for number in range(ROUNDS):
        compare(env, random.Random(f"{kind} {number}"), images, tmp_path / str(number))


@pytest.mark.thorough
@pytest.mark.timeout(300 + 240 * ROUNDS)
def test_forgotten_by_feature_prompts_is_as_if_never_contributed(images: Images, tmp_path: Path) -> None:
    env = {**(REAL if ROUNDS > 1 else FAST), **KINDS["tree"], **FEATURES}
    for number in range(ROUNDS):
        compare(env, random.Random(f"features {number}"), images, tmp_path / str(number))


@pytest.mark.thorough
@pytest.mark.timeout(300 + 240 * ROUNDS)
def test_forgotten_in_and_outside_the_core_is_as_if_never_contributed(images: Images, tmp_path: Path) -> None:
    env = {**(REAL if ROUNDS > 1 else FAST), **KINDS["tree"]}
    for number in range(ROUNDS):
        compare(env, random.Random(f"core {number}"), images, tmp_path / str(number), core=CORE)


def compare(env: dict[str, str], chance: random.Random, images: Images, folder: Path, core: Sequence[str] = ()) -> None:
    chosen = chance.sample(range(len(images.pixels) - 5), SAMPLES + HELD_OUT)
    everything = [(picture(images, index), f"owner {chance.randrange(OWNERS)}") for index in chosen]
    given, apart = everything[:SAMPLES], everything[SAMPLES:]
    with ExitStack() as stack:
        first, second = (stack.enter_context(Service(folder / name, env)) for name in ("forgets", "never saw"))
        at_once(first.start, second.start)
        assert [service.client.get("/status").status_code for service in (first, second)] == [200, 200]
        first.contribute([picture for picture, _ in apart], [owner for _, owner in apart], role="evaluation")
        survivors = forgetful(first, chance, given, core)
        left = {sample["digest"] for sample in first.pages("/samples", role="evaluation")}
        pictures = [
            picture for digest, (picture, _) in zip(digests_of(first, apart), apart, strict=True) if digest in left
        ]
        second.contribute(pictures, "another owner", role="evaluation")
        by_digest = dict(zip(digests_of(first, given), given, strict=True))
        # Only the order within a cluster counts, so clusters may come at once; anchors and the core look at all orders.
        groups: dict[str, list[tuple[Picture, str]]] = {}
        for sample in survivors:
            group = "all" if core or env["OUBLI_PARTITION__KIND"] == "anchors" else sample["cluster"]
            groups.setdefault(group, []).append((by_digest[sample["digest"]][0], sample["owner"]))
        innocent(second, chance, list(groups.values()), core)
        assert len(first.digests()) > 1
        assert first.digests() == second.digests()
        known, expected = (service.status()["closed_form"] for service in (first, second))
        assert (known["digest"], known["samples"]) == (expected["digest"], expected["samples"])
        assert known["samples"] == len(survivors)
        if core:
            adapted = [adapted_of(service, len(survivors)) for service in (first, second)]
            assert adapted[0] == adapted[1]
            assert adapted[0]["samples"] == sum(sample["role"] == "core" for sample in survivors) > 0
        assert report_of(first, known["digest"], len(left)) == report_of(second, known["digest"], len(left))


def adapted_of(service: Service, samples: int) -> dict[str, Any]:
    """Its core, adapter and tier of adapted descriptors, once that has all samples."""
    found: dict[str, Any] = {}

    def is_whole() -> bool:
        found.update(service.status()["core"])
        return found["closed_form"] is not None and found["closed_form"]["samples"] == samples

    until(is_whole, what="the tier of adapted descriptors")
    return found


def report_of(service: Service, digest: str, held_out: int) -> dict[str, Any]:
    """What it says of its quality, of this closed form and so many evaluation samples, but for times."""
    found: dict[str, Any] = {}

    def is_ready() -> bool:
        found.update(service.client.get("/quality").json())
        evaluation = found["evaluation"]
        return (found["digest"], evaluation["digest"], evaluation["samples"]) == (digest, digest, held_out)

    until(is_ready, what="a report of quality")
    assert found["state"] == found["evaluation"]["state"] == "ready"
    return without_times({**found, "evaluation": without_times(found["evaluation"])})


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("as_of", "computed_at")}


def digests_of(service: Service, given: Sequence[tuple[Picture, str]]) -> list[str]:
    """What the service calls these pictures."""
    from models.image import decode, pixel_digest
    from service.settings import IntakeSettings

    return [pixel_digest(decode(picture.data, IntakeSettings().limits())) for picture, _ in given]

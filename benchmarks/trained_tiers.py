"""Prompts trained for a comparison, as workers train them, and what is kept of it: what they say of test images.

That takes hours the first time (about 170 CPU minutes for twelve runs on 10,000 images), so it is kept under
`results/tiers/`, in a folder named after what it was made from; run again, it goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.images import Labelled, load
from models import bank, determinism
from models.backbone import Backbone, load_backbone
from models.descriptor import SCALE
from models.embedding import describe
from models.image import pixel_digest
from models.partition import Interval, make_partition
from models.spec import PartitionSpec, TrainingSpec, canonical_json, member_digest, prompt_key, sha256
from models.training import TrainingExample, train
from service.cli.printing import progress_bar
from service.core.plan import Survivor, plan

EVERYTHING = 0  # as a cap: one prompt and head for all samples
FEWEST = {100: 25, 300: 50, 1000: 100}  # samples in a cluster, by the most
BACKBONE = "efficientnet-lite0"

Array = npt.NDArray[Any]


def folder_of(name: str, images: int, queries: int) -> Path:
    """Named after everything that is the same for all caps and seeds."""
    backbone = load_backbone(BACKBONE)
    made_from = [name, images, queries, backbone.digest, TrainingSpec().digest(), backbone.kind.name]
    folder = Path(__file__).parent / "results" / "tiers" / sha256(canonical_json(made_from))[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def path_of(folder: Path, cap: int, seed: int) -> Path:
    return folder / f"cap{cap}-seed{seed}.npz"


def load_arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def _save(path: Path, **arrays: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def described(path: Path, *parts: Sequence[Labelled]) -> list[tuple[Array, Array]]:
    """(embeddings, descriptors as unit vectors) of each part."""
    if not path.is_file():
        backbone = load_backbone(BACKBONE)
        arrays = {}
        with progress_bar() as bar:
            task = bar.add_task("Describing", total=sum(len(items) for items in parts))
            for number, items in enumerate(parts):
                chunks = []
                for start in range(0, len(items), 64):
                    chunk = items[start : start + 64]
                    chunks.append(describe(backbone, [backbone.preprocessing.resize(item.pixels) for item in chunk]))
                    bar.advance(task, len(chunk))
                arrays[f"embeddings{number}"] = np.concatenate([chunk.embeddings for chunk in chunks])
                arrays[f"descriptors{number}"] = np.concatenate(
                    [chunk.descriptors / np.float32(SCALE) for chunk in chunks]
                )
        _save(path, **arrays)
    found = load_arrays(path)
    return [(found[f"embeddings{n}"], found[f"descriptors{n}"]) for n in range(len(parts))]


def numbers(items: Sequence[Labelled], classes: Sequence[str]) -> Array:
    return np.array([classes.index(item.label) for item in items])


def train_missing(jobs: Sequence[tuple[Path, int, int, int, int]]) -> None:
    """Those that are missing, one process a core; each process trains with one thread."""
    missing = [job for job in jobs if not path_of(job[0], job[3], job[4]).is_file()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar() as bar,
        ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool,
    ):
        task = bar.add_task("Training", total=len(missing))
        for future in [pool.submit(_train_one, *job) for job in missing]:
            future.result()
            bar.advance(task)


def _train_one(folder: Path, images: int, queries: int, cap: int, seed: int) -> None:
    """Train every cluster's prompt; keep what each test image's own prompt says of it, and how many it has seen."""
    determinism.configure(threads=1, device="cpu")
    started = time.monotonic()
    _, contributed, held_out = load(images, queries)
    classes = sorted({item.label for item in contributed})
    (vectors, _), (test_vectors, _) = described(folder / "described.npz", contributed, held_out)
    order = np.random.default_rng(100 + seed).permutation(len(contributed))
    contributed, vectors = [contributed[i] for i in order], vectors[order]
    backbone, spec = load_backbone(BACKBONE), TrainingSpec()
    digests = [pixel_digest(item.pixels) for item in contributed]
    regions, places = _regions(backbone, spec, cap, contributed, digests, vectors, held_out, test_vectors)
    said = np.zeros((len(held_out), len(classes)), np.float32)
    members = np.zeros(len(held_out), int)
    for region, chosen in regions:
        named = [member_digest(digests[i], contributed[i].label) for i in chosen]
        key = prompt_key(backbone_digest=backbone.digest, training=spec, members=named)
        prompt = train(
            backbone,
            spec,
            key=key,
            members=[TrainingExample(contributed[i].pixels, contributed[i].label) for i in chosen],
        )
        stacked = bank.stack(backbone, spec, {key: prompt})
        mine = [i for i, place in enumerate(places) if region.lo <= place < region.hi]
        columns = [classes.index(label) for label in prompt.labels]
        for start in range(0, len(mine), 32):
            batch = mine[start : start + 32]
            asked = torch.stack([backbone.preprocessing.resize(held_out[i].pixels) for i in batch])
            answers = stacked.probabilities(backbone, asked, torch.zeros(len(batch), dtype=torch.long))
            said[np.ix_(batch, columns)] = answers.numpy()
        members[mine] = len(chosen)
    sizes = [len(chosen) for _, chosen in regions]
    truth = numbers(held_out, classes)
    _save(
        path_of(folder, cap, seed),
        probs=said,
        size=members,
        sizes=sizes,
        truth=truth,
        seconds=time.monotonic() - started,
    )


def _regions(
    backbone: Backbone,
    spec: TrainingSpec,
    cap: int,
    contributed: Sequence[Labelled],
    digests: Sequence[str],
    vectors: Array,
    held_out: Sequence[Labelled],
    test_vectors: Array,
) -> tuple[list[tuple[Interval, tuple[int, ...]]], Array]:
    """Each cluster's region and members, and where the test images stand."""
    if cap == EVERYTHING:
        return [(Interval(0, 2**63 - 1), tuple(range(len(contributed))))], np.zeros(len(held_out), np.int64)
    partition = make_partition(PartitionSpec(kind="tree", cap=cap, min=FEWEST[cap]), backbone.prototypes)
    layout = partition.fit(np.zeros((0, backbone.dim), np.float32))
    positions = layout.locate(vectors, digests).tolist()
    survivors = [Survivor(d, i.label, p) for d, i, p in zip(digests, contributed, positions, strict=True)]
    planned = plan(survivors, partition=partition, backbone_digest=backbone.digest, training=spec)
    places = layout.locate(test_vectors, [pixel_digest(item.pixels) for item in held_out])
    return [(cluster.region, cluster.members) for cluster in planned], places

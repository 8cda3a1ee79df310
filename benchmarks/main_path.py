"""The main path, measured on a running service: accuracy, cluster sizes, the cost and speed of forgetting.

2,000 images under 20 owners go in over HTTP; every owner is erased in turn. Accuracy is compared with two models
trained here from the same members and the same budget: the same heads without prompts, and one prompt and head on
everything.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.images import Labelled, load
from models import bank, determinism
from models.backbone import Backbone, load_backbone
from models.embedding import Embedding, embed
from models.image import pixel_digest
from models.partition import Interval, Layout, Partition, make_partition
from models.spec import PromptSpec, TrainingSpec
from models.training import TrainingExample, train
from service.cli.client import Client
from service.cli.concurrency import CHUNK
from service.cli.demo import running_service
from service.cli.printing import progress_bar
from service.core.plan import Survivor, plan
from service.settings import load_settings

OWNERS = 20
console = Console()


def measure(*, images: int = 2000, queries: int = 500) -> dict[str, Any]:
    """Run it all; the figures."""
    name, contributed, held_out = load(images, queries)
    # Each owner gives images of few kinds, as people do.
    contributed.sort(key=lambda item: item.label)
    owners = [f"owner-{i * OWNERS // len(contributed):02d}" for i in range(len(contributed))]
    order = np.random.default_rng(1).permutation(len(contributed))
    contributed, owners = [contributed[i] for i in order], [owners[i] for i in order]
    figures: dict[str, Any] = {"data": name, "images": len(contributed), "owners": OWNERS}
    with running_service(0) as (client, _, folder):
        figures |= _fill(client, contributed, owners)
        figures["accuracy"] = accuracy_of(client, held_out)
        figures |= _erase_everyone(client, folder, sorted(set(owners)))
    figures |= _baselines(contributed, held_out)
    return figures


def _fill(client: Client, contributed: Sequence[Labelled], owners: Sequence[str]) -> dict[str, Any]:
    started = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("Contributing", total=len(contributed))
        for start in range(0, len(contributed), CHUNK):
            chunk = contributed[start : start + CHUNK]
            said = [{"label": i.label, "owner": o} for i, o in zip(chunk, owners[start:], strict=False)]
            files = [("images", ("image.png", item.png())) for item in chunk]
            client.request("POST", "/samples/batch", files=files, data={"metadata": json.dumps(said)})
            bar.advance(task, len(chunk))
    intake = time.monotonic() - started
    clusters = wait_until_served(client)
    sizes = [cluster["samples"] for cluster in clusters]
    return {
        "intake_images_per_second": len(contributed) / intake,
        "first_training_seconds": time.monotonic() - started - intake,
        "clusters": len(clusters),
        "sizes": sorted(sizes),
        "expected_cost_of_one_deletion": sum(size**2 for size in sizes) / sum(sizes),
    }


def wait_until_served(client: Client) -> list[dict[str, Any]]:
    """Wait until every cluster serves a prompt of its present members; the clusters."""
    with progress_bar() as bar:
        task = bar.add_task("Training", total=None)
        while True:
            clusters = list(client.pages("/clusters"))
            current = [c for c in clusters if c["prompt"] and c["prompt"]["members"] == c["samples"]]
            bar.update(task, total=len(clusters), completed=len(current))
            open_erasures = [e for e in client.pages("/erasures") if e["state"] != "completed"]
            if len(current) == len(clusters) and not open_erasures:
                return clusters
            time.sleep(1)


def accuracy_of(client: Client, held_out: Sequence[Labelled]) -> float:
    """The share of images that the service names rightly."""
    right = 0
    for start in range(0, len(held_out), CHUNK):
        chunk = held_out[start : start + CHUNK]
        files = [("image", ("image.png", item.png())) for item in chunk]
        answers = client.request("POST", "/predict", files=files)["predictions"]
        right += sum(a["label"] == item.label for a, item in zip(answers, chunk, strict=True))
    return right / len(held_out)


def _erase_everyone(client: Client, folder: Path, owners: Sequence[str]) -> dict[str, Any]:
    """The first owner alone, to see what changes; the others one after the other, for the clock."""
    before = _digests(client)
    traces = _traces(client, folder, owners[0])
    seconds = [_timed_delete(client, owners[0])]
    erasure = next(client.pages("/erasures"))
    touched = {cluster["cluster"] for cluster in erasure["clusters"]}
    wait_until_served(client)
    after = _digests(client)
    kept = {cluster for cluster in before if after.get(cluster) == before[cluster]}
    found = _search(folder, traces)
    seconds += [_timed_delete(client, owner) for owner in owners[1:]]
    return {
        "delete_owner_ms_median": statistics.median(seconds) * 1000,
        "delete_owner_ms_max": max(seconds) * 1000,
        "clusters_touched_by_first": len(touched),
        "digests_changed": len(before) - len(kept),
        "untouched_all_kept": set(before) - touched <= kept,
        "touched_all_changed": not touched & kept,
        "traces_searched": len(traces),
        "traces_found_after": found,
    }


def _digests(client: Client) -> dict[str, str]:
    return {cluster["id"]: cluster["prompt"]["digest"] for cluster in client.pages("/clusters")}


def _timed_delete(client: Client, owner: str) -> float:
    started = time.perf_counter()
    client.request("DELETE", f"/owners/{owner}")
    return time.perf_counter() - started


def _traces(client: Client, folder: Path, owner: str) -> list[bytes]:
    """The bytes of pixels and embedding, as stored, of everything an owner has."""
    ids = {sample["id"] for sample in client.pages("/samples", owner=owner)}
    traces = []
    for path in (folder / "objects" / "samples").rglob("*.safetensors"):
        if path.stem in ids:
            tensors = safetensors.numpy.load_file(path)
            traces += [tensors["pixels"].tobytes(), tensors["embedding"].tobytes()]
    if len(traces) != 2 * len(ids):
        raise RuntimeError("not every sample's bytes were found before the erasure")
    return traces


def _search(folder: Path, traces: Sequence[bytes]) -> int:
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return sum(any(trace in data for data in files) for trace in traces)


def _baselines(contributed: Sequence[Labelled], held_out: Sequence[Labelled]) -> dict[str, Any]:
    settings = load_settings()
    determinism.configure(threads=settings.training.threads, device="cpu")
    backbone = load_backbone(settings.backbone)
    centroids = settings.partition.read_centroids()
    partition = make_partition(settings.partition.spec(), backbone.prototypes, centroids=centroids)
    layout = _layout(backbone, partition, contributed)
    survivors = [
        Survivor(pixel_digest(i.pixels), i.label, p)
        for i, p in zip(contributed, _places(backbone, layout, contributed), strict=True)
    ]
    asked = settings.training.spec()
    budget = TrainingSpec(epochs=asked.epochs, prompt_lr=asked.prompt_lr, head_lr=asked.head_lr, prompt=asked.prompt)
    clusters = plan(survivors, partition=partition, backbone_digest=backbone.digest, training=budget)
    regions = [(cluster.region, cluster.members) for cluster in clusters]
    everything = [(Interval(0, 2**63 - 1), tuple(range(len(contributed))))]
    bare = TrainingSpec(**{**budget.__dict__, "prompt": PromptSpec(kind="none")})
    places = _places(backbone, layout, held_out)
    return {
        "accuracy_heads_without_prompts": _score(backbone, bare, contributed, regions, held_out, places),
        "accuracy_one_prompt_and_head": _score(backbone, budget, contributed, everything, held_out, places),
    }


def _layout(backbone: Backbone, partition: Partition, items: Sequence[Labelled]) -> Layout:
    window = items[: partition.window(len(items))]
    anchors = [window[i] for i in partition.anchors([pixel_digest(item.pixels) for item in window])]
    return partition.fit(_embeddings(backbone, anchors))


def _embeddings(backbone: Backbone, items: Sequence[Labelled]) -> Embedding:
    return embed(backbone, [backbone.preprocessing.resize(item.pixels) for item in items])


def _places(backbone: Backbone, layout: Layout, items: Sequence[Labelled]) -> list[int]:
    digests = [pixel_digest(item.pixels) for item in items]
    places: list[int] = layout.locate(_embeddings(backbone, items), digests).tolist()
    return places


def _score(
    backbone: Backbone,
    spec: TrainingSpec,
    contributed: Sequence[Labelled],
    regions: Sequence[tuple[Interval, tuple[int, ...]]],
    held_out: Sequence[Labelled],
    places: Sequence[int],
) -> float:
    """Accuracy of one prompt and head for each region, trained here."""
    trained = {}
    with progress_bar() as bar:
        task = bar.add_task(f"Baseline ({spec.prompt.kind}, {len(regions)})", total=len(regions))
        for row, (_, members) in enumerate(regions):
            chosen = [TrainingExample(contributed[i].pixels, contributed[i].label) for i in members]
            trained[str(row)] = train(backbone, spec, key=f"baseline {row}", members=chosen)
            bar.advance(task)
    stacked = bank.stack(backbone, spec, trained)
    right = 0
    for item, place in zip(held_out, places, strict=True):
        row = next(r for r, (region, _) in enumerate(regions) if region.lo <= place < region.hi)
        image = backbone.preprocessing.resize(item.pixels)[None]
        scores = stacked.probabilities(backbone, image, torch.tensor([row]))[0]
        right += stacked.labels[row][int(scores.argmax())] == item.label
    return right / len(held_out)


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    table = Table("", "", title=f"Main path, {figures['data']}", show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    console.print(table)

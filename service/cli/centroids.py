"""`oubli centroids`: fit the file that the partition `pinned` needs, on public images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.desk import SUFFIXES, console, progress_bar
from service.errors import Invalid
from service.loading import loading
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.image import Pixels


def centroids(
    folder: Annotated[Path, typer.Argument(help="Folder of public images; folders in it are searched too.")],
    clusters: Annotated[int, typer.Option(help="How many centroids.", min=1)] = 16,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("centroids.npy"),
) -> None:
    """Cluster public images by k-means, for OUBLI_PARTITION__CENTROIDS. Nobody's private images belong here."""
    import numpy as np  # late, as below: no other command of `oubli` waits for NumPy, scikit-learn and torch
    from sklearn.cluster import KMeans

    settings = load_settings()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < clusters:
        raise Invalid(f"{folder} has {len(paths)} images: too few for {clusters} centroids.")
    vectors = _embed(settings, paths)
    if len(vectors) < clusters:
        raise Invalid(f"Only {len(vectors)} of the images in {folder} could be used: too few for {clusters} centroids.")
    centers = KMeans(clusters, n_init=4, random_state=0).fit(vectors).cluster_centers_
    unit = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    with out.open("wb") as file:
        np.save(file, unit.astype(np.float32), allow_pickle=False)
    console.print(f"{clusters} centroids of {len(vectors)} images: {out}")


def _embed(settings: Settings, paths: list[Path]) -> npt.NDArray[np.float32]:
    """Embeddings [n, dim] of the images that can be read; the others are named."""
    with loading():
        import numpy as np

        from models.backbone import load_backbone
        from models.embedding import BATCH, embed
        from service.core.environment import configure

    configure(settings, threads=settings.serving.threads)
    backbone = load_backbone(settings.backbone, input_size=settings.input_size, device=settings.device)
    rows = []
    with progress_bar() as bar:
        task = bar.add_task(f"Embedding {len(paths)} images", total=len(paths))
        for start in range(0, len(paths), BATCH):
            chunk = paths[start : start + BATCH]
            pictures = [_read(path, settings) for path in chunk]
            rows.append(embed(backbone, [backbone.preprocessing.resize(p) for p in pictures if p is not None]))
            bar.advance(task, len(chunk))
    found: npt.NDArray[np.float32] = np.concatenate(rows)
    return found[np.isfinite(found).all(axis=1)]


def _read(path: Path, settings: Settings) -> Pixels | None:
    from models.image import ImageError, decode

    try:
        return decode(path.read_bytes(), settings.intake.limits())
    except (ImageError, OSError) as error:
        console.print(f"  {path}: {error}", style="red")
        return None

"""`oubli centroids`: fit the file that the partition `pinned` needs, on public images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.class_folders import walk
from service.cli.printing import JsonOption, note, plain, print_json, progress_bar, say
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
    as_json: JsonOption = False,
) -> None:
    """Cluster public images by k-means, for OUBLI_PARTITION__CENTROIDS. Give no private images to it."""
    import numpy as np  # late, as below: no other command of `oubli` waits for NumPy, scikit-learn and torch
    from sklearn.cluster import KMeans

    settings = load_settings()
    if not folder.is_dir():
        raise Invalid(f"{plain(folder)} is not a folder.")
    paths = [entry.path for entry in walk(folder) if entry.kind is None]
    if len(paths) < clusters:
        raise Invalid(f"{plain(folder)} has {len(paths)} images: too few for {clusters} centroids.")
    vectors = _embed(settings, paths, apart=as_json)
    if len(vectors) < clusters:
        usable = f"Only {len(vectors)} of the images in {plain(folder)} could be used"
        raise Invalid(f"{usable}: too few for {clusters} centroids.")
    centers = KMeans(clusters, n_init=4, random_state=0).fit(vectors).cluster_centers_
    unit = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    with out.open("wb") as file:
        np.save(file, unit.astype(np.float32), allow_pickle=False)
    if as_json:
        print_json({"centroids": clusters, "images": len(vectors), "file": str(out)})
    else:
        say(f"{clusters} centroids of {len(vectors)} images: {plain(out)}")


def _embed(settings: Settings, paths: list[Path], *, apart: bool) -> npt.NDArray[np.float32]:
    """Embeddings [n, dim] of the images that can be read; the others are named."""
    with loading():
        import numpy as np

        from models.backbone import load_backbone
        from models.embedding import BATCH, embed
        from service.core.environment import configure

    configure(settings, threads=settings.serving.threads)
    backbone = load_backbone(settings.backbone, input_size=settings.input_size, device=settings.device)
    rows = []
    with progress_bar(apart=apart) as bar:
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
        note(f"  {plain(path)}: {plain(str(error))}")
        return None

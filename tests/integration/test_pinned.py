"""`oubli centroids`, and a service that is pinned to what it has fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.integration.harness import TINY, Picture, Service, oubli

pytestmark = pytest.mark.thorough


def public_folder(root: Path, pictures: list[Picture]) -> Path:
    folder = root / "public" / "deeper"
    folder.mkdir(parents=True)
    for picture in pictures:
        (folder / picture.name).write_bytes(picture.data)
    return root / "public"


def test_centroids_fitted_on_public_images_divide_what_people_give(pictures: list[Picture], tmp_path: Path) -> None:
    folder, out = public_folder(tmp_path, pictures[40:]), tmp_path / "three.npy"
    (folder / "broken.png").write_bytes(b"no image")
    done = oubli("centroids", folder, "--clusters", "3", "--out", out, env=TINY)
    assert done.code == 0, done
    assert "broken.png" in done.err
    assert f"3 centroids of {len(pictures[40:])} images" in done.out
    fitted = np.load(out)
    assert fitted.shape == (3, 32)
    assert np.allclose(np.linalg.norm(fitted, axis=1), 1)
    first = out.read_bytes()
    oubli("centroids", folder, "--clusters", "3", "--out", out, env=TINY)
    assert out.read_bytes() == first
    env = {**TINY, "OUBLI_PARTITION__KIND": "pinned", "OUBLI_PARTITION__CENTROIDS": str(out)}
    with Service(tmp_path / "pinned", env).start() as service:
        service.contribute(pictures[:24], "ada")
        assert 1 <= len(service.settle()) <= 3
        partition = service.client.get("/partition").json()
        assert (partition["kind"], partition["anchors"], partition["cap"]) == ("pinned", 3, None)
        assert (partition["pending"], partition["failure"]) == (False, None)


def test_too_few_images_are_refused_in_words(pictures: list[Picture], tmp_path: Path) -> None:
    done = oubli("centroids", public_folder(tmp_path, pictures[:2]), "--clusters", "3", env=TINY)
    assert (done.code, "has 2 images: too few for 3 centroids" in done.err) == (1, True)


def test_a_service_without_its_centroids_says_what_it_needs(tmp_path: Path) -> None:
    env = {**TINY, "OUBLI_PARTITION__KIND": "pinned"}
    done = oubli("serve", "--data", tmp_path / "data", env=env)
    assert done.code == 2
    assert "partition.kind pinned needs partition.centroids" in done.err
    lost = oubli("serve", "--data", tmp_path / "data", env={**env, "OUBLI_PARTITION__CENTROIDS": "/nowhere.npy"})
    assert "/nowhere.npy cannot be read" in lost.err

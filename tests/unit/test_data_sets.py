"""Each data set in its real on-disk format, written tiny; what is missing says where to put it and how to fetch it."""

import hashlib
import io
import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from models.image import pixel_digest
from service.evaluation.data_sets import NAMES, MissingDataSet, load_data_set

RANDOM = np.random.default_rng(0)


def pixels(count, side=32):
    return RANDOM.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def digests(images):
    return sorted(pixel_digest(image) for image in images)


def seen(members):
    return sorted((pixel_digest(member.pixels), member.label) for member in members)


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def rows(images):
    """As CIFAR's files have them: red, then green, then blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def test_cifar10(tmp_path, monkeypatch):
    train, test = pixels(10), pixels(4)
    folder, kind = tmp_path / "cifar-10-batches-py", datasets.CIFAR10
    sums = [
        write_pickle(folder / name, {"data": rows(train[2 * i : 2 * i + 2]), "labels": [2 * i, 2 * i + 1]})
        for i, (name, _) in enumerate(kind.train_list)
    ]
    monkeypatch.setattr(kind, "train_list", [[name, md5] for (name, _), md5 in zip(kind.train_list, sums, strict=True)])
    md5 = write_pickle(folder / "test_batch", {"data": rows(test), "labels": [0, 1, 2, 3]})
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5]])
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    md5 = write_pickle(folder / "batches.meta", {"label_names": names})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    found = load_data_set("cifar10", root=tmp_path)
    assert seen(found.train) == sorted(zip(map(pixel_digest, train), names, strict=True))
    assert seen(found.test) == sorted(zip(map(pixel_digest, test), names[:4], strict=True))
    assert found.labels == names


def test_cifar100(tmp_path, monkeypatch):
    train, test = pixels(3), pixels(2)
    folder, kind = tmp_path / "cifar-100-python", datasets.CIFAR100
    content = {"train": (train, [0, 1, 1]), "test": (test, [1, 0])}
    for name, (images, fine) in content.items():
        entry = {"data": rows(images), "fine_labels": fine, "coarse_labels": [0] * len(fine)}
        monkeypatch.setattr(kind, f"{name}_list", [[name, write_pickle(folder / name, entry)]])
    md5 = write_pickle(folder / "meta", {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["fruit"]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    found = load_data_set("cifar100", root=tmp_path)
    assert seen(found.train) == sorted(zip(map(pixel_digest, train), ["apple", "bear", "bear"], strict=True))
    assert seen(found.test) == sorted(zip(map(pixel_digest, test), ["bear", "apple"], strict=True))


def test_svhn(tmp_path, monkeypatch):
    kind, parts, listed = datasets.SVHN, {}, {}
    for split, labels in (("train", [1, 10, 3]), ("test", [10, 9])):
        parts[split] = pixels(len(labels))
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": parts[split].transpose(1, 2, 3, 0), "y": np.array(labels)[:, None]})
        listed[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(kind, "split_list", {**kind.split_list, **listed})
    found = load_data_set("svhn", root=tmp_path)
    assert seen(found.train) == sorted(zip(map(pixel_digest, parts["train"]), "103", strict=True))
    assert seen(found.test) == sorted(zip(map(pixel_digest, parts["test"]), "09", strict=True))


def test_gtsrb(tmp_path):
    train, test = pixels(3, 20), pixels(2, 25)
    base = tmp_path / "gtsrb"
    for number, image in enumerate(train):
        folder = base / "GTSRB" / "Training" / f"{number:05d}"
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "00000_00000.ppm")
    images = base / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, image in enumerate(test):
        Image.fromarray(image).save(images / f"{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;25;25;0;0;24;24;{number + 16}")
    (base / "GT-final_test.csv").write_text("\n".join(lines))
    found = load_data_set("gtsrb", root=tmp_path)
    assert seen(found.train) == sorted(zip(map(pixel_digest, train), ["00", "01", "02"], strict=True))
    assert seen(found.test) == sorted(zip(map(pixel_digest, test), ["16", "17"], strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_a_missing_one_says_where_to_put_it_and_how_to_fetch_it(name, tmp_path):
    with pytest.raises(
        MissingDataSet, match=rf"{name} cannot be read \(.*not found.*\)\. Put .* into {tmp_path}, or run"
    ):
        load_data_set(name, root=tmp_path)


def test_a_damaged_one_is_not_taken_for_the_real_one(tmp_path):
    write_pickle(tmp_path / "cifar-100-python" / "train", {"data": rows(pixels(1)), "fine_labels": [0]})
    with pytest.raises(MissingDataSet, match="corrupted"):
        load_data_set("cifar100", root=tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(
        MissingDataSet, match=r"'mnist'. Known: cifar10, cifar100, svhn, gtsrb, digits, a .npz file, or"
    ):
        load_data_set("mnist", root=tmp_path)


def test_digits_are_always_there(tmp_path):
    found = load_data_set("digits", root=tmp_path)
    assert (len(found.train), len(found.test)) == (1437, 360)
    assert found.labels == list("0123456789")
    assert found.train[0].pixels.shape == (32, 32, 3)


def test_the_seed_decides_which_and_in_what_order(tmp_path):
    first, again, other = (load_data_set("digits", root=tmp_path, train=50, test=20, seed=s) for s in (1, 1, 2))
    assert [(m.pixels.tobytes(), m.label) for m in first.train] == [(m.pixels.tobytes(), m.label) for m in again.train]
    assert seen(first.train) != seen(other.train)
    assert (len(first.train), len(first.test)) == (50, 20)


# --------------------------------------------------------------------------------------------------------------- npz


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


def good():
    return {
        "train_images": pixels(3),
        "train_labels": np.array([0, 1, 1]),
        "test_images": pixels(2),
        "test_labels": np.array([1, 0]),
    }


def test_npz_with_and_without_class_names(npz, tmp_path):
    arrays = good()
    plain = load_data_set(npz(**arrays), root=tmp_path)
    assert plain.labels == ["0", "1"]
    named = load_data_set(npz(**arrays, classes=np.array(["cat", "dog"])), root=tmp_path)
    assert named.labels == ["cat", "dog"]
    assert digests(m.pixels for m in named.train) == digests(arrays["train_images"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test_labels": None}, "has no array test_labels"),
        ({"train_images": np.zeros((3, 8, 8, 3))}, r"train_images must be uint8 .* they are float64 \[3, 8, 8, 3\]"),
        ({"train_labels": np.zeros(2, int)}, r"and \[2\]"),
        ({"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)}, "no images to ask about"),
    ],
)
def test_npz_that_does_not_fit_is_refused(change, said, npz, tmp_path):
    arrays = {name: value for name, value in (good() | change).items() if value is not None}
    with pytest.raises(MissingDataSet, match=said):
        load_data_set(npz(**arrays), root=tmp_path)


def one_array():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no zip", pickle.dumps({"train_images": 1}), one_array()],
    ids=["empty", "no zip", "a pickle", "one array"],
)
def test_what_is_no_npz_is_refused(content, tmp_path):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(MissingDataSet, match=r"cannot be read as \.npz"):
        load_data_set(str(tmp_path / "mine.npz"), root=tmp_path)


def test_npz_that_is_not_there_is_said(tmp_path):
    with pytest.raises(MissingDataSet, match="No such file"):
        load_data_set(str(tmp_path / "none.npz"), root=tmp_path)


# ----------------------------------------------------------------------------------------------------------- folders


def write_classes(folder, images):
    for number, image in enumerate(images):
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_divided_folder(test, tmp_path):
    train, held_out = pixels(4), pixels(2)
    write_classes(tmp_path / "train", train)
    write_classes(tmp_path / test, held_out)
    (tmp_path / "train" / "cats" / ".DS_Store").write_bytes(b"left behind")
    found = load_data_set(str(tmp_path), root=tmp_path)
    assert seen(found.train) == sorted(zip(map(pixel_digest, train), ["cats", "dogs"] * 2, strict=True))
    assert seen(found.test) == sorted(zip(map(pixel_digest, held_out), ["cats", "dogs"], strict=True))


def test_a_folder_of_classes_is_divided_by_what_the_images_are(tmp_path):
    images = pixels(40)
    first = load_data_set(str(write_classes(tmp_path / "a", images)), root=tmp_path)
    assert digests(m.pixels for m in [*first.train, *first.test]) == digests(images)
    assert 2 <= len(first.test) <= 16
    again = load_data_set(str(write_classes(tmp_path / "b", images[::-1])), root=tmp_path)
    assert digests(m.pixels for m in again.test) == digests(m.pixels for m in first.test)


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = write_classes(tmp_path / "mine", pixels(4))
    (folder / "cats" / "notes.txt").write_text("not an image")
    with pytest.raises(MissingDataSet, match=r"notes\.txt: The file is not an image"):
        load_data_set(str(folder), root=tmp_path)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(MissingDataSet, match="no images to learn from"):
        load_data_set(str(tmp_path), root=tmp_path)

"""Folders as Macs, network storage, Windows and notebooks leave them: every picture found, all else named."""

import os
from pathlib import Path

import pytest

from models.class_folders import Kind, find, label_of, looks_like_picture, walk

JPEG = b"\xff\xd8\xff\xe0" + bytes(40)
HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


def put(root: Path, *names: str, data: bytes = JPEG) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def pictures(root: Path) -> list[str]:
    return [str(picture.path.relative_to(root)) for picture in find(root).pictures]


def left_out(root: Path) -> dict[str, Kind | None]:
    return {str(entry.path.relative_to(root)): entry.kind for entry in find(root).left_out}


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/one.jpg/SYNOPHOTO_THUMB_XL.jpg", "@EADIR/x.jpg", ".ipynb_checkpoints/one-checkpoint.jpg", "._one.jpg",
        ".hidden.jpg", "Thumbs.db", "THUMBS.DB", ".DS_Store", "desktop.ini", "#recycle/x.jpg", "~$one.jpg", "Icon\r",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "cat/", "cat/inner/"])
def test_what_systems_leave_behind_is_left_out_and_named(name: str, place: str, tmp_path: Path) -> None:
    put(tmp_path, "cat/one.jpg", place + name)
    assert pictures(tmp_path) == ["cat/one.jpg"]
    assert left_out(tmp_path) == {place + name.split("/")[0]: Kind.SYSTEM}
    assert find(tmp_path).missed == []


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "__MACOSX", "System Volume Information", "lost+found", ".Trash-1000"])
def test_systems_folders_are_no_classes(name: str, tmp_path: Path) -> None:
    put(tmp_path, "cat/one.jpg", f"{name}/cat/one.jpg")
    assert pictures(tmp_path) == ["cat/one.jpg"]
    assert left_out(tmp_path) == {name: Kind.SYSTEM}


@pytest.mark.parametrize(
    "suffix",
    ["jpg", "JPG", "jpeg", "JPE", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "TIFF",
     "ppm", "pgm", "pbm", "heic", "HEIC", "heif", "avif", "jp2", "jxl"],
)  # fmt: skip
def test_a_picture_is_one_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, f"cat/x.{suffix}", data=b"what it is, the service says")
    assert pictures(tmp_path) == [f"cat/x.{suffix}"]


@pytest.mark.parametrize("name", ["x", "x.jpg_large", "x.orig", "IMG.1"])
def test_a_picture_by_its_first_bytes_has_no_need_of_a_suffix(name: str, tmp_path: Path) -> None:
    put(tmp_path, f"cat/{name}")
    put(tmp_path, f"dog/{name}", data=HEIC)
    assert pictures(tmp_path) == [f"cat/{name}", f"dog/{name}"]


def test_signatures_are_told_apart() -> None:
    for head in (JPEG, HEIC, b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM\1\2\3\4\0\0\0\0", b"MM\0*", b"GIF89a"):
        assert looks_like_picture(head)
    for head in (
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x18ftypqt  ",
        b"BMI is a measure",
        b"GIFT",
        b"%PDF-1.7",
        b"P3 notes",
    ):
        assert not looks_like_picture(head)


def test_everything_else_is_named_by_kind(tmp_path: Path) -> None:
    put(tmp_path, "cat/one.jpg", "stray.jpg")
    put(tmp_path, "cat/notes.txt", "README", data=b"words")
    put(tmp_path, "cat/raw.NEF", data=b"II*\0")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "dog").symlink_to(tmp_path / "nowhere")
    assert pictures(tmp_path) == ["cat/one.jpg"]
    found = left_out(tmp_path)
    assert found == {
        "stray.jpg": Kind.NO_CLASS,
        "README": Kind.OTHER,
        "cat/notes.txt": Kind.OTHER,
        "cat/raw.NEF": Kind.RAW,
        "cat/pipe.jpg": Kind.SPECIAL,
        "cat/gone.jpg": Kind.DANGLING,
        "dog": Kind.DANGLING,
    }
    missed = {str(entry.path.relative_to(tmp_path)) for entry in find(tmp_path).missed}
    assert missed == {"cat/raw.NEF", "cat/gone.jpg", "dog"}


def test_a_folder_called_one_jpg_is_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "cat/one.jpg/inner.png", "two.jpg/three.jpg")
    (tmp_path / "cat" / "empty.jpg").mkdir()
    assert pictures(tmp_path) == ["cat/one.jpg/inner.png", "two.jpg/three.jpg"]
    assert [picture.label for picture in find(tmp_path).pictures] == ["cat", "two.jpg"]
    assert left_out(tmp_path) == {}


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.jpg", "deep/b.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "elsewhere")
    (root / "all").symlink_to(root)
    assert pictures(root) == ["cat/a.jpg", "cat/deep/b.jpg"]
    assert left_out(root) == {"all": Kind.CIRCULAR, "cat/up": Kind.CIRCULAR}


def test_names_that_are_not_utf_8_are_read_and_said(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xff.jpg")).write_bytes(JPEG)
    put(tmp_path, "café/b.jpg")
    found = find(tmp_path)
    assert sorted(picture.label for picture in found.pictures) == ["café", "café"]
    assert found.guessed == {tmp_path / os.fsdecode(b"caf\xe9"): "café"}
    assert label_of(os.fsdecode(b" \x81 ")) == ("\x81", True)  # which 1252 does not have: the service refuses it


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cat/one.jpg", "dog/two.jpg")
    real = os.listdir

    def refuse(path: Path) -> list[str]:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert pictures(tmp_path) == ["cat/one.jpg"]
    assert left_out(tmp_path) == {"dog": Kind.UNREADABLE}
    assert len(find(tmp_path).missed) == 1


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cat/one.jpg", "cat/two.jpg")
    real = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "one.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert pictures(tmp_path) == ["cat/two.jpg"]
    assert left_out(tmp_path) == {"cat/one.jpg": Kind.UNREADABLE}
    assert len(find(tmp_path).missed) == 1


def test_pictures_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b/1.jpg", "a/2.jpg", "a/1.jpg", "a/1/9.jpg", "a/10.jpg", "a/B.jpg", "a/b.jpg"]
    put(tmp_path, *names)
    paths = [picture.path for picture in find(tmp_path).pictures]
    assert paths == sorted(paths)
    assert [entry.path for entry in walk(tmp_path)] == paths


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        find(tmp_path / "none")

"""Folders of class folders, FOLDER/<label>/.../<image>, with the files that operating systems leave in them.

Promises: every picture below a class folder is found, whatever its suffix; every other entry is named, with its kind.
Links are followed, but never to a folder that contains them. Nothing is decoded here: whether a file with a picture's
suffix is a picture is left to the reader of its pixels.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

# Suffixes of pictures, whether or not the format can be read here: unreadable files are refused by name, not ignored.
SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".bmp",
        ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".heic", ".heif", ".hif", ".avif",
        ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".tga", ".ico",
    }
)  # fmt: skip
RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
        ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
# Compared without regard to case. Names that begin with a dot are left out too, and office programs' locks (`~$...`).
SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin", "system volume information", "found.000", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
        "desktop.ini", "picasa.ini", "zbthumbnail.info",  # Windows, and viewers on it
        "__macosx", "icon\r", "network trash folder", "temporary items",  # macOS
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",  # network storage
        "lost+found", "__pycache__",
    }
)  # fmt: skip
HEAD_BYTES = 32  # of a file, enough for `looks_like_picture`
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL \r\n",
)  # fmt: skip


class Kind(StrEnum):
    """Why an entry was left out."""

    SYSTEM = "hidden, or left behind by a system"
    OTHER = "not pictures"
    NO_CLASS = "pictures in no class folder"
    CIRCULAR = "links to a folder around them"
    SPECIAL = "pipes, sockets or devices"
    DANGLING = "links that lead nowhere"
    RAW = "camera raw files, which are not read: export them as JPEG"
    UNREADABLE = "cannot be read"


# Kinds of left-out entries that are probably meant as pictures: with one of them, a folder was not read completely.
MISSED = frozenset({Kind.DANGLING, Kind.RAW, Kind.UNREADABLE})


@dataclass(frozen=True)
class Entry:
    """A file, or a folder that was not entered. `kind` is None for a picture; `size` in bytes."""

    path: Path
    kind: Kind | None
    size: int = 0


@dataclass(frozen=True)
class ClassFile:
    """A picture and what it shows, by its class folder's name; `size` in bytes."""

    path: Path
    label: str
    size: int


@dataclass
class FolderContents:
    """The content of a folder of class folders.

    pictures  in the order of their names.
    left_out  all other entries, with their kind.
    guessed   class folders whose names are not UTF-8, and the labels that they were read as.
    """

    pictures: list[ClassFile] = field(default_factory=list)
    left_out: list[Entry] = field(default_factory=list)
    guessed: dict[Path, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[Entry]:
        """Left-out entries that are probably meant as pictures."""
        return [entry for entry in self.left_out if entry.kind in MISSED]


def find(folder: Path) -> FolderContents:
    """The content of a folder of class folders. Raises OSError if the folder itself cannot be read."""
    found = FolderContents()
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not is_system(name) and os.path.isdir(path):  # False, where `Path` may raise
            label, is_guess = label_of(name)
            if is_guess:
                found.guessed[path] = label
            for entry in _entries(path, (_identity(folder),)):
                if entry.kind is None:
                    found.pictures.append(ClassFile(entry.path, label, entry.size))
                else:
                    found.left_out.append(entry)
        else:
            found.left_out += (
                Entry(entry.path, entry.kind or Kind.NO_CLASS, entry.size) for entry in _entries(path, ())
            )
    return found


def walk(folder: Path) -> Iterator[Entry]:
    """All entries of a folder and its subfolders, in the order of their names. Raises OSError as `find` does."""
    for name in sorted(os.listdir(folder)):
        yield from _entries(folder / name, (_identity(folder),))


def is_system(name: str) -> bool:
    """Whether this is a name that operating systems and programs give their own files."""
    return name.startswith((".", "~$")) or name.casefold() in SYSTEM_NAMES


def label_of(name: str) -> tuple[str, bool]:
    """(label, is a guess): a folder's name, normalised as the service does (NFC, without outer blanks).

    It is a guess if its bytes are not UTF-8 and were read as Windows-1252, in which old archives and disks mostly are.
    """
    text, is_guess = _read(os.fsencode(name))
    return unicodedata.normalize("NFC", text).strip(), is_guess


def _read(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), True
    except UnicodeDecodeError:  # five bytes mean nothing there
        return data.decode("latin-1"), True


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a picture of a common format, whatever its name."""
    if head.startswith(_SIGNATURES):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _BRANDS
    return head[:2] == b"BM" and head[6:10] == bytes(4)


def _entries(path: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """The entry itself, or its entries if it is a folder. `above` are the folders that contain it, by `_identity`."""
    if is_system(path.name):
        yield Entry(path, Kind.SYSTEM)
        return
    try:
        about = path.stat()
    except OSError as error:
        nowhere = path.is_symlink() and not isinstance(error, PermissionError)
        yield Entry(path, Kind.DANGLING if nowhere else Kind.UNREADABLE)
        return
    if not stat.S_ISDIR(about.st_mode):
        yield Entry(path, _kind(path, about.st_mode), about.st_size)
        return
    here = (about.st_dev, about.st_ino)
    if here in above:
        yield Entry(path, Kind.CIRCULAR)
        return
    try:
        names = sorted(os.listdir(path))
    except OSError:
        yield Entry(path, Kind.UNREADABLE)
        return
    for name in names:
        yield from _entries(path / name, (*above, here))


def _kind(path: Path, mode: int) -> Kind | None:
    if not stat.S_ISREG(mode):
        return Kind.SPECIAL
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return Kind.RAW
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return Kind.UNREADABLE
    return None if suffix in SUFFIXES or looks_like_picture(head) else Kind.OTHER


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino

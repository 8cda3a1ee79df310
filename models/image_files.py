"""File formats: recognised by the first bytes, and checked before any pixel is decoded.

A file is opened only by the decoder of its format, so a format that is not accepted reaches no decoder at all; a known
format that is not accepted is refused by its name.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection

from models.image_errors import NotAnImage, TooCostly

MOST_SCANS = 100  # of a JPEG; encoders write 1 to 12, and each costs a pass over the whole picture

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_OTHERS = {  # formats that clients do send, and that are not supported, by the first bytes
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"%PDF-": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"gimp xcf": "GIMP",
    b"\x00\x00\x01\x00": "icon (ICO)",
    b"icns": "icon (ICNS)",
    b"P7": "PAM",
    b"PF": "PFM",
    b"Pf": "PFM",
    b"SIMPLE  =": "FITS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"FUJIFILM": "camera raw",
    b"IIU\0": "camera raw",
    b"IIRO": "camera raw",
    b"<svg": "SVG",
    b"GIF8": "GIF of an unknown version",
}
_NETPBM = re.compile(rb"P([1-6])[ \t\r\n\v\f#]")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def recognise(data: bytes, accepted: Collection[str]) -> str:
    """The format of a file, one of `accepted` (names as in `ImageLimits.formats`). Raises NotAnImage."""
    if not data:
        raise NotAnImage("The file is empty.")
    kind = _kind(data)
    if kind in accepted:
        return kind
    named = f"of the kind {kind}, which is not accepted" if kind else "not an image"
    raise NotAnImage(f"The file is {named}. Accepted: {', '.join(accepted)}.")


def _kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith(_TIFF):
        return "camera raw" if data[8:10] == b"CR" else "TIFF"
    if netpbm := _NETPBM.match(data):
        return "PPM" if netpbm[1] in b"456" else "PLAIN_PPM"
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    return next((name for start, name in _OTHERS.items() if data.startswith(start)), "")


def _of_brands(data: bytes) -> str:
    """The format that a `ftyp` box names (ISO/IEC 23008-12): a brand, a version, and compatible brands."""
    (size,) = struct.unpack(">I", data[:4])
    brands = {data[at : at + 4] for at in (8, *range(16, min(size, 256), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & _HEIC else "video, or an unknown HEIF brand"


_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in coded data: not a stuffed zero, nor a restart
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length


def check_scans(data: bytes) -> None:
    """Refuse a JPEG of very many scans, as far as its first image goes. Raises TooCostly.

    Every scan of a progressive JPEG may be a few bytes long and costs a pass over all coefficients ("Two issues with
    the JPEG standard", libjpeg-turbo, LJT-01-005).
    """
    if data.count(b"\xff\xda") <= MOST_SCANS:  # also counts those of thumbnails
        return
    place, scans = 2, 0
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = data[found.start() + 1], found.end()
        if marker == 0xD9:  # the end of the image; what follows is another one
            return
        if marker in _ALONE:
            continue
        scans += marker == 0xDA
        if scans > MOST_SCANS:
            raise TooCostly(f"The JPEG has more than {MOST_SCANS} scans. Save it again, as an ordinary JPEG.")
        place += int.from_bytes(data[place : place + 2], "big")


def code_points(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of H.273, where an AVIF or HEIC tells them (ISO/IEC 23008-12, `colr` of kind `nclx`)."""
    _, found, said = data.partition(b"colrnclx")
    return struct.unpack(">HH", said[:4]) if found and len(said) >= 4 else None

"""The chunks of a PNG file: those that say what its colours mean, and the file without chunks that no pixel depends on.

Pillow refuses a file for a wrong checksum in, or a large text within, a chunk that no viewer reads. PNG (third edition,
13.1 and 14.2) and libpng skip such chunks; so does this module, and passes on only chunks that pixels depend on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PROFILE = 8_000_000  # bytes of a colour profile; those of printers come to 3 MB
_NEEDED = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}  # of the ancillary chunks, for Pillow
_READ = {b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP"}  # ... and for us: Pillow makes nothing of them


@dataclass(frozen=True)
class Png:
    """A PNG file that Pillow can open, and its description of its colours."""

    data: bytes
    depth: int  # bits of a value
    colour_type: int  # 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
    said: dict[bytes, bytes] = field(default_factory=dict)  # contents of the chunks that say what colours mean

    @property
    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none, or it is not readable."""
        _, _, packed = self.said.get(b"iCCP", b"").partition(b"\0")
        try:
            unpacker = zlib.decompressobj()
            profile = unpacker.decompress(packed[1:], MOST_PROFILE)
        except zlib.error:
            return None
        return profile if unpacker.eof else None

    @property
    def gamma(self) -> float | None:
        """The exponent that values were encoded with, 1 / 2.2 in nearly every file; None if it is not given."""
        said = self.said.get(b"gAMA", b"")
        return struct.unpack(">I", said)[0] / 100_000.0 or None if len(said) == 4 else None

    @property
    def chromaticities(self) -> tuple[tuple[float, float], ...] | None:
        """CIE x and y of white, red, green and blue; None if they are not given."""
        said = self.said.get(b"cHRM", b"")
        if len(said) != 32:
            return None
        values = [value / 100_000.0 for value in struct.unpack(">8I", said)]
        return tuple(zip(values[::2], values[1::2], strict=True))


def read(data: bytes) -> Png:
    """The chunks of a PNG file; a damaged file is passed on as it is, for Pillow to refuse."""
    kept: list[bytes] = [SIGNATURE]
    said: dict[bytes, bytes] = {}
    depth, colour_type = (data[24], data[25]) if len(data) > 25 else (8, 2)
    for kind, chunk in _chunks(data):
        ancillary = bool(kind[:1].islower())
        if ancillary and (kind not in _NEEDED | _READ or not _is_sound(chunk)):
            continue
        if kind in _READ:
            said.setdefault(kind, bytes(chunk[8:-4]))
        else:
            kept.append(bytes(chunk))
    return Png(b"".join(kept), depth, colour_type, said)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and bytes of each chunk: length, type, content, checksum. The last one may be incomplete."""
    view, place = memoryview(data), len(SIGNATURE)
    while place < len(data):
        length = int.from_bytes(view[place : place + 4], "big")
        kind = bytes(view[place + 4 : place + 8])
        yield kind, view[place : place + length + 12]
        if kind == b"IEND":
            return
        place += length + 12


def _is_sound(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")

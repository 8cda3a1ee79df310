"""Files that people and attackers send, made here: what Pillow would not write, and what costs much to decode.

Each is of `SCENE` unless it says otherwise: four coloured quarters, wider than high, no symmetry.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Values = npt.NDArray[Any]

SCENE = np.zeros((48, 64, 3), np.uint8)
SCENE[:24, :32], SCENE[:24, 32:], SCENE[24:, :32], SCENE[24:, 32:] = (
    (200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30),
)  # fmt: skip
GREY = np.asarray(Image.fromarray(SCENE).convert("L"))


def encoded(image: Image.Image | Values, kind: str, **options: Any) -> bytes:
    """By Pillow."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------- PNG


def chunk(kind: bytes, content: bytes, *, sound: bool = True) -> bytes:
    """With a check sum, or a wrong one."""
    checksum = zlib.crc32(kind + content) ^ (not sound)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    rows: Values, *, depth: int, colour_type: int, before: Sequence[bytes] = (), after: Sequence[bytes] = ()
) -> bytes:
    """Of packed rows [height, bytes] uint8; `before` and `after` are chunks around the pixels."""
    width = {0: 1, 2: 3}[colour_type]
    header = struct.pack(">IIBBBBB", rows.shape[1] * 8 // (depth * width), rows.shape[0], depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    ends = chunk(b"IDAT", pixels), *after, chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *before, *ends])


def scene_png(*before: bytes, after: Sequence[bytes] = ()) -> bytes:
    """8-bit RGB, with these chunks."""
    return png(SCENE.reshape(48, -1), depth=8, colour_type=2, before=before, after=after)


def grey_16_png(values: Values, *before: bytes) -> bytes:
    """Of uint16 [height, width]."""
    return png(values.astype(">u2").view(np.uint8), depth=16, colour_type=0, before=before)


def packed_grey_png(values: Values, depth: int, *before: bytes) -> bytes:
    """Of values below 2 ** depth [height, width]; depth 1, 2 or 4."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
    return png(np.packbits(bits.reshape(len(values), -1), axis=1), depth=depth, colour_type=0, before=before)


def packed_text(size: int) -> bytes:
    """A zTXt chunk of so many characters."""
    return chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * size))


# -------------------------------------------------------------------------------------------------- TIFF, BMP, PPM


def tiff(data: bytes, tags: Mapping[int, Sequence[int]], *, width: int = 64, height: int = 48) -> bytes:
    """One uncompressed strip and these tags, all of them 32-bit numbers."""
    tags = {256: [width], 257: [height], 259: [1], 278: [height], 279: [len(data)], 273: [0], **tags}
    place = 8 + 2 + 12 * len(tags) + 4
    longer = {tag: values for tag, values in sorted(tags.items()) if len(values) > 1}
    tags[273] = [place + sum(4 * len(values) for values in longer.values())]
    entries = b""
    for tag, values in sorted(tags.items()):
        entries += struct.pack("<HHII", tag, 4, len(values), place if tag in longer else values[0])
        place += 4 * len(values) if tag in longer else 0
    outside = b"".join(struct.pack(f"<{len(values)}I", *values) for values in longer.values())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + outside + data


def tiled_tiff(side: int) -> bytes:
    """side x side tiles of one pixel, all the same one."""
    count = side * side
    entries = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1), (322, 1), (323, 1)]
    place = 8 + 2 + 12 * 10 + 4
    head = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head += struct.pack("<HHII", 324, 4, count, place) + struct.pack("<HHII", 325, 4, count, place + 4 * count)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + head + bytes(4) + struct.pack("<I", 8) * 2 * count


def bmp(alpha: int) -> bytes:
    """Of version 4, with a mask for alpha, which has this value everywhere."""
    pixels = np.dstack([SCENE[..., ::-1], np.full((48, 64), alpha, np.uint8)])[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, 64, 48, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    start = 14 + len(header) + len(masks)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + masks + pixels


# ------------------------------------------------------------------------------------------------------- profiles


def profile(**colorants: tuple[float, float, float]) -> bytes:
    """sRGB's, with other CIE XYZ (under D50) of full red, green or blue."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", made[128:132])
    places = dict(struct.unpack(">4sI", made[132 + 12 * i : 140 + 12 * i]) for i in range(count))
    for colour, values in colorants.items():
        place = places[colour[0].encode() + b"XYZ"] + 8
        made[place : place + 12] = b"".join(struct.pack(">i", round(value * 65536)) for value in values)
    return bytes(made)


DISPLAY_P3 = profile(red=(0.5151, 0.2412, -0.0011), green=(0.2920, 0.6922, 0.0419), blue=(0.1571, 0.0666, 0.7841))
PROPHOTO = profile(red=(0.7977, 0.2880, 0.0), green=(0.1352, 0.7119, 0.0), blue=(0.0313, 0.0001, 0.8249))
SWAPPED = profile(red=(0.1431, 0.0606, 0.7139), blue=(0.4361, 0.2225, 0.0139))


def meant_by(icc: bytes, image: Values = SCENE) -> Image.Image:
    """The same picture, to the eye, written down in the colours of that profile, which it carries."""
    ours, theirs = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    found = ImageCms.profileToProfile(Image.fromarray(image), ours, theirs, renderingIntent=intent)
    assert found is not None
    return found


def cmyk_profile(inks: str = "CMYK", steps: int = 9) -> bytes:
    """A printer's, of pure inks, whose channels are these: a table from inks to Lab (ICC.1:2001, lut16Type)."""
    axis = np.linspace(0.0, 1.0, steps)
    amounts = dict(zip(inks, np.meshgrid(*[axis] * 4, indexing="ij"), strict=True))
    seen = np.stack([(1 - amounts[ink]) * (1 - amounts["K"]) for ink in "CMY"], axis=-1)  # red, green, blue
    colours = Image.fromarray(np.rint(seen * 255).astype(np.uint8).reshape(1, -1, 3))
    ours, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(colours, ours, lab, outputMode="LAB")
    assert found is not None
    bytes_of_lab = np.frombuffer(found.tobytes(), np.uint8).reshape(-1, 3) ^ np.array([0, 128, 128], np.uint8)  # signed
    table = bytes_of_lab * np.array([0xFF00 / 255, 256, 256])
    line = struct.pack(">HH", 0, 65535)
    one = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft2" + bytes(4) + bytes([4, 3, steps, 0]) + one + struct.pack(">HH", 2, 2)
    lut += line * 4 + np.rint(table).astype(">u2").tobytes() + line * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, place = b"", 128 + 4 + 2 * 12
    for name, content in ((b"A2B0", lut), (b"wtpt", white)):
        tags += struct.pack(">4sII", name, place, len(content))
        place += len(content)
    head = struct.pack(">I4sI4s4s4s", place, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    head = (head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return head + struct.pack(">I", 2) + tags + lut + white


# -------------------------------------------------------------------------------------------- what costs very much


def scans(count: int, *, width: int = 64, height: int = 48) -> bytes:
    """A progressive JPEG, grey, of so many scans that change nothing."""

    def segment(marker: int, content: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content

    def bits(text: str) -> bytes:
        text += "1" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")

    blocks = -(-width // 8) * -(-height // 8)
    runs, left = "", blocks
    while left > 0:  # "0" and 14 bits: the end of 2 ** 14 blocks and as many more as the bits say
        more = min(16383, max(0, left - 16384))
        runs, left = runs + "0" + format(more, "014b"), left - 16384 - more
    one_code = bytes([1, *bytes(15)])
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    tables += segment(0xC4, b"\0" + one_code + b"\0") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bits("0" * blocks)
    return b"\xff\xd8" + tables + first + (segment(0xDA, b"\1\1\0\1\x3f\0") + bits(runs)) * (count - 1) + b"\xff\xd9"


def slow(size: int) -> bytes:
    """A grey picture of size x size that is decoded by Python, pixel by pixel: 255 is not its white."""
    return b"P5 %d %d 254\n" % (size, size) + bytes(range(200)) * (size * size // 200 + 1)


# 48 megapixels of one colour each, 8,000 x 6,000, by Pillow's encoder and pillow-heif's; to encode them takes half a
# minute, and to decode them most of a second.
LARGE_AVIF = zlib.decompress(base64.b64decode(
    # 1,121 bytes
    "eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joBBR6nZtaksgAAYoZKTlFUDZDQWZyCQMa4CvILMkFsxiBWC4zJz8ZxHEB8RkhoozCDAzM"
    "fkC2RmZmXhpcrRSQk8oE5SWWGRg65+fkg+3KyiwoKgDS3pkFyflAWiSzuCAVYp28AwODOEhOoCCzIhMkwszBwQGkeBLLDJ0b5XlAQsLJ+TlF"
    "eck5FUCTeRnYGoBC4pkFuTA/AR3GwsjUzALUG5abklgixMDFLf/Zrr7sWwdHhomC0R42SR739ta7l31NDh07wMAQfv6U5vEpz0M+C+3zaGzS"
    "EFnTebRztij7hJPvjf6IzPLw7f88hdPs1LSd1cZyTVVHvziI31PwcTu19Izs0SzBdYk6H3frHOhd2FQbuqgkUSxGNfBn3MNlOhZ3e5ctiDx/"
    "yiXaoeF27PIbWxWfH2OT3ftBjlU74tLkHCfbICMl4Qz7r1mafId/XD2SIHro6k6pMiP/22nlt5U06qYHxNwQ6/14IFyUL0Pf6dONX6svf/fc"
    "9yercsNEa96kcpkDNDQ6jBSjnwe+PbFM92nK3ws8LDOvTZYxUb/fo3/jN3/395vCu2+vj9mbWFB/VKO54si9A4W0crJqaKLOjsddN1t+Rvw9"
    "OfHT7tANf32tey+rbdwzMqykSXw9rju7+pH7j2PBu2tZ76/7/vueY+YMttm/r24BAH751Iw="
))  # fmt: skip
LARGE_HEIC = zlib.decompress(base64.b64decode(
    # 11,150 bytes
    "eNrt0M9LAkEUB/A3uyJ7MIssDAmiupSQ4DEwWMo/okvQtu6yA7s62RIWQfofCEGHTtG5c1AgBBH1H9SfUDdPIVHYG7UO/gUdvm8/zI83b4bZ"
    "IaJ5Pz5SgSdd4oikX9TjSDo+kdiOvNihYSwGlbA+GpOSbkxjsSTD2uCQsk2CPw5xMuyJ8tPcLEtZ9QdTnZ3liWeMZsGhW9TDtJJx9FfyKlVd"
    "cX8rlVvj/pjLtoSpU+1BUadLX9+9HtGkucs75myREv2+LjB1hal17gzb4cXCphBjK5f0adHO4/n7+mqhauRSls4+68ay93hLsizu91v66hm3"
    "Ftarbtjg7AQlm5yakQfKG/7dgk2U1beaUrIhdca0LD6MslJFvw/Ib5JoGWaCHyMXVRx+v3x6RVyvNa/eTs9ebpIbmY/2RfepNLocAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAD8c+LhB79Pd/s="
))  # fmt: skip

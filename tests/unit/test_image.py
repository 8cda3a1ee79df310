"""Strangers' bytes in, a person's picture out; everything else is refused, cheaply and in words."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from models.image import AbsurdDimensions, ImageError, NotAnImage, Undecodable, decode, pixel_digest
from models.spec import ImageLimits

ORIENTATION = 0x0112
LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]

# What a person sees: four coloured corners, wider than high, no symmetry
SCENE = np.zeros((16, 24, 3), dtype=np.uint8)
SCENE[:8, :12], SCENE[:8, 12:], SCENE[8:, :12], SCENE[8:, 12:] = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0)

# EXIF says where the stored row 0 and column 0 belong (Exif 2.32, 4.6.5): orientation -> stored pixels of a scene
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: scene[:, ::-1].transpose(1, 0, 2),
    7: lambda scene: scene[::-1, ::-1].transpose(1, 0, 2),
    8: lambda scene: scene[::-1].transpose(1, 0, 2),
}


def encode(image, format="PNG", **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_header(width, height):
    """The beginning of a PNG that claims those dimensions, and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )


def patched(data, offset, values):
    return data[:offset] + values + data[offset + len(values) :]


def bombs():
    jpeg, gif, bmp = encode(SCENE, "JPEG"), encode(SCENE, "GIF"), encode(SCENE, "BMP")
    yield "PNG beyond Pillow's limit", png_header(60_000, 60_000)
    yield "PNG beyond our limit only", png_header(8_000, 7_000)
    yield "JPEG", patched(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", 65_000, 65_000))
    yield "GIF", patched(gif, 6, struct.pack("<HH", 65_000, 65_000))
    yield "BMP", patched(bmp, 18, struct.pack("<II", 30_000, 30_000))
    yield "PPM", b"P6 90000 90000 255\n"


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<html><body>Not found</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        pickle.dumps(SCENE),
        encode(SCENE, "ICO"),
    ],
    ids=["empty", "text", "html", "svg", "postscript", "pickle", "ico"],
)
def test_what_is_no_accepted_image_is_refused(data):
    with pytest.raises(NotAnImage):
        decode(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_a_truncated_file_is_refused(format, images):
    data = encode(images.pixels[0], format)
    with pytest.raises(ImageError):
        decode(data[: len(data) * 2 // 3])


def test_a_file_that_breaks_off_says_so_without_details():
    data = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(Undecodable, match=r"^The image is damaged or truncated and cannot be decoded\.$"):
        decode(data[:-200])


@pytest.mark.parametrize("bomb", [pytest.param(data, id=name) for name, data in bombs()])
def test_a_decompression_bomb_is_refused_before_any_pixel_is_decoded(bomb, monkeypatch):
    def load(self):
        raise AssertionError("A pixel was decoded.")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(AbsurdDimensions, match="pixels"):
        decode(bomb)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (9, 1), (2, 41), (1000, 49)])
def test_an_image_too_small_or_too_narrow_is_refused(width, height):
    with pytest.raises(AbsurdDimensions, match=f"{width} x {height}"):
        decode(encode(Image.new("RGB", (width, height))))


@pytest.mark.parametrize(("width", "height"), [(2, 2), (2, 40), (1000, 50)])
def test_the_limits_themselves_are_accepted(width, height):
    assert decode(encode(Image.new("RGB", (width, height)))).shape == (height, width, 3)


@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
def test_damaged_bytes_give_an_image_or_a_refusal_and_nothing_else(format, data):
    damaged = bytearray(encode(SCENE, format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(damaged), ImageLimits(max_pixels=100_000))
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


# --------------------------------------------------------------------------------------------- what a person sees


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_keep_every_pixel(format):
    assert np.array_equal(decode(encode(SCENE, format)), SCENE)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_rotated_photo_is_turned_upright(format, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](SCENE)))
    assert np.array_equal(decode(encode(stored, format, exif=exif(orientation))), SCENE)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_ignored(orientation):
    assert np.array_equal(decode(encode(SCENE, exif=exif(orientation))), SCENE)


@pytest.mark.parametrize(
    "tags",
    [
        [(0x0112, 3, 1, b"\0\6\0\0"), (0x927C, 3, 5, b"\0\0\0\0")],  # a maker's note of the wrong type
        [(0x0112, 3, 1, b"\0\6\0\0"), (0x010F, 12, 1, b"\0\0\0\x08")],  # the camera's name as a number
    ],
)
def test_an_odd_tag_of_a_camera_spoils_neither_picture_nor_rotation(tags):
    entries = b"".join(struct.pack(">HHI", *tag[:3]) + tag[3] for tag in tags)
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + entries + bytes(16)
    assert decode(encode(STORED[6](SCENE), "JPEG", exif=block)).shape == SCENE.shape


def test_damaged_metadata_leaves_the_picture_as_it_is(monkeypatch):
    def getexif(self):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", getexif)
    assert np.array_equal(decode(encode(SCENE)), SCENE)


WHITE, RED, HALF_RED = (255, 255, 255), (255, 0, 0), (255, 127, 127)


def palette_image(transparent):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    options = {"transparency": 0} if transparent else {}
    return encode(image, "PNG", **options)


def grey_16(value, format):
    return encode(Image.fromarray(np.full((4, 4), value, dtype=np.uint16)), format)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), RED, id="CMYK JPEG"),
        pytest.param(encode(Image.new("L", (4, 4), 77)), (77, 77, 77), id="grey"),
        pytest.param(encode(Image.new("1", (4, 4), 1)), WHITE, id="black and white"),
        pytest.param(grey_16(128 * 257, "PNG"), (128, 128, 128), id="16-bit grey PNG"),
        pytest.param(grey_16(65535, "TIFF"), WHITE, id="16-bit grey TIFF"),
        pytest.param(b"P5 4 4 65535\n" + b"\x80\x80" * 16, (128, 128, 128), id="16-bit grey PGM"),
        pytest.param(palette_image(transparent=False), RED, id="palette"),
        pytest.param(palette_image(transparent=True), WHITE, id="palette, transparent"),
        pytest.param(encode(Image.new("LA", (4, 4), (0, 0))), WHITE, id="grey, transparent"),
        pytest.param(encode(Image.new("L", (4, 4), 9), transparency=9), WHITE, id="grey, a transparent value"),
        pytest.param(encode(Image.new("RGB", (4, 4), RED), transparency=RED), WHITE, id="a transparent colour"),
        pytest.param(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), WHITE, id="transparent"),
        pytest.param(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128))), HALF_RED, id="half transparent"),
        pytest.param(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP"), WHITE, id="transparent WebP"),
    ],
)
def test_every_kind_of_colour_becomes_what_a_person_sees(data, colour):
    pixels = decode(data)
    assert pixels.shape == (4, 4, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 2  # JPEG and CMYK round


def test_of_an_animation_only_the_first_frame_is_taken():
    later = [Image.new("RGB", (8, 8), (0, 255, 0)), Image.new("RGB", (8, 8), (0, 0, 255))]
    data = encode(Image.new("RGB", (8, 8), RED), "GIF", save_all=True, append_images=later)
    assert (decode(data) == RED).all()


# ---------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_large_image_is_reduced_to_the_shorter_side(format):
    pixels = decode(encode(Image.new("RGB", (300, 200), RED), format), ImageLimits(max_side=64))
    assert pixels.shape == (64, 96, 3)


def test_a_big_jpeg_reduced_while_decoding_looks_like_one_decoded_in_full():
    rows, columns = np.mgrid[:800, :1200]
    big = np.stack([rows * 255 // 800, columns * 255 // 1200, (rows + columns) % 256], axis=-1).astype(np.uint8)
    data = encode(STORED[8](big), "JPEG", quality=90, exif=exif(8))
    full = np.asarray(Image.fromarray(big).resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    reduced = decode(data, ImageLimits(max_side=64)).astype(int)
    assert reduced.shape == full.shape
    assert np.abs(reduced - full)[..., :2].mean() < 2  # the two smooth channels


def test_metadata_is_left_behind():
    tags = exif(1)
    tags[0x010E] = "Ada's living room"
    told = decode(encode(SCENE, "JPEG", exif=tags, comment=b"a secret", dpi=(300, 300)))
    assert type(told) is np.ndarray
    assert told.flags.owndata
    assert pixel_digest(told) == pixel_digest(decode(encode(SCENE, "JPEG")))


def test_the_same_picture_has_the_same_digest_whatever_file_it_came_in():
    assert len({pixel_digest(decode(encode(SCENE, format))) for format in LOSSLESS}) == 1


def test_the_digest_does_not_depend_on_the_layout_in_memory():
    assert pixel_digest(np.asfortranarray(SCENE)) == pixel_digest(SCENE)


def test_another_pixel_or_another_shape_is_another_digest():
    other = SCENE.copy()
    other[3, 4, 1] ^= 1
    assert len({pixel_digest(SCENE), pixel_digest(other), pixel_digest(SCENE.reshape(24, 16, 3))}) == 3

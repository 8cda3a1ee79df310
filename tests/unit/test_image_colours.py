"""Colours as a browser shows them: converted, or refused in words; never accepted and other than they were meant."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from models import colour_profiles
from models.image import NotAnImage, Undecodable, decode, pixel_digest, register_heif
from models.spec import ImageLimits
from tests.odd_files import (
    DISPLAY_P3,
    GREY,
    PROPHOTO,
    SCENE,
    SWAPPED,
    bmp,
    chunk,
    cmyk_profile,
    encoded,
    grey_16_png,
    meant_by,
    packed_grey_png,
    packed_text,
    png,
    profile,
    scene_png,
    tiff,
)

WHITE = (255, 255, 255)
RGB_16 = (SCENE.astype(np.uint16) * 257).astype(">u2").reshape(48, -1).view(np.uint8)


def three(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def where(mask, image=SCENE):
    """White there."""
    return np.where(mask[..., None], np.uint8(255), image)


# -------------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize(
    ("icc", "apart"), [(DISPLAY_P3, 4), (PROPHOTO, 10), (SWAPPED, 2)], ids=["Display P3", "ProPhoto", "swapped"]
)
def test_a_profile_is_converted_to_srgb(kind, icc, apart):
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    options["HEIF"] = {"quality": -1, "chroma": 444}  # lossless
    register_heif()
    stored = meant_by(icc)
    assert np.abs(np.asarray(stored).astype(int) - SCENE).max() > 10
    found = decode(encoded(stored, kind, icc_profile=icc, **options.get(kind, {})))
    inner = np.abs(found.astype(int) - SCENE)[4:20, 4:28]  # no edge
    assert inner.max() <= apart


def test_transparency_is_put_on_white_after_the_conversion():
    clear = np.asarray(Image.new("L", (64, 48), 128))
    stored = meant_by(SWAPPED)
    stored.putalpha(Image.fromarray(clear))
    found = decode(encoded(stored, "PNG", icc_profile=SWAPPED)).astype(int)
    assert np.abs(found - (SCENE.astype(int) * 128 + 255 * 127) // 255).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_profile_of_inks_is_followed(kind):
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    cyan, magenta, yellow, black = Image.fromarray(SCENE).convert("CMYK").split()
    stored = Image.merge("CMYK", (yellow, magenta, cyan, black))
    plain = decode(encoded(stored, kind, **options)).astype(int)
    assert np.abs(plain - SCENE)[4:20, 4:28].max() > 100  # red for blue
    found = decode(encoded(stored, kind, icc_profile=cmyk_profile("YMCK"), **options)).astype(int)
    for rows in (slice(4, 20), slice(28, 44)):
        for columns in (slice(4, 28), slice(36, 60)):
            assert np.abs(found - SCENE)[rows, columns].max() <= 12


def test_a_profile_of_greys_is_converted():
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = bytearray(colour_profiles.of_primaries(colour_profiles.SRGB, 1.0))
    grey[16:20] = b"GRAY"
    grey = bytes(grey).replace(b"rTRC", b"kTRC")
    found = decode(encoded(Image.new("L", (4, 4), 55), "PNG", icc_profile=grey))
    assert abs(int(found[0, 0, 0]) - 128) <= 1  # 0.2158 of the light is half of sRGB's scale
    assert (decode(encoded(Image.new("RGB", (4, 4), (55, 0, 0)), "PNG", icc_profile=grey))[0, 0] == (55, 0, 0)).all()
    assert (decode(encoded(Image.new("L", (4, 4), 55), "PNG", icc_profile=linear)) == 55).all()


def test_what_means_srgb_keeps_its_pixels_to_the_bit():
    other_hand = bytearray(profile())
    other_hand[24:36] = bytes(12)  # its date
    tweaked = profile(red=(0.4361, 0.2226, 0.0139))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for icc in (profile(), bytes(other_hand), tweaked, colour_profiles.of_primaries(colour_profiles.SRGB, None)):
        for options in ({}, {"icc_profile": icc}):
            assert np.array_equal(decode(encoded(noise, "PNG", **options)), noise)
        plain, told = (decode(encoded(noise, "JPEG", **options)) for options in ({}, {"icc_profile": icc}))
        assert np.array_equal(plain, told)


@pytest.mark.parametrize(
    "icc", [b"no profile", profile()[:300], bytes(3000), profile().replace(b"rXYZ", b"????"), b"\0" * 16 + b"CMYK" * 99]
)
def test_a_damaged_or_foreign_profile_is_ignored(icc):
    assert np.array_equal(decode(encoded(SCENE, "PNG", icc_profile=icc)), SCENE)


def test_png_tells_colours_in_other_ways():
    linear = np.full((4, 4, 3), 55, np.uint8).reshape(4, -1)  # 0.2158 of the light: half of sRGB's scale

    def shown(*chunks):
        return int(decode(png(linear, depth=8, colour_type=2, before=chunks))[0, 0, 0])

    def gamma(value):
        return chunk(b"gAMA", struct.pack(">I", value))

    assert shown(gamma(100_000)) in (127, 128, 129)
    assert shown(gamma(45_455)) == shown(gamma(46_000)) == shown(gamma(0)) == 55  # sRGB, near to it, and nothing
    assert shown(gamma(100_000), chunk(b"sRGB", b"\0")) == 55  # which comes first
    assert shown(gamma(100_000), chunk(b"cICP", bytes([1, 13, 0, 1]))) == 55
    assert shown(chunk(b"cICP", bytes([1, 8, 0, 1]))) in (127, 128, 129)
    with pytest.raises(Undecodable, match="high dynamic range"):
        shown(chunk(b"cICP", bytes([9, 16, 0, 1])))
    with pytest.raises(Undecodable, match="colour space that is not supported"):
        shown(chunk(b"cICP", bytes([77, 13, 0, 1])))


def test_primaries_of_a_png_are_those_of_a_profile():
    points = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)  # Display P3
    told = scene_png(chunk(b"cHRM", struct.pack(">8I", *points)))
    meant = scene_png(chunk(b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3)))
    assert np.abs(decode(told).astype(int) - decode(meant)).max() <= 2
    nonsense = scene_png(chunk(b"cHRM", bytes(32)))
    assert np.array_equal(decode(nonsense), SCENE)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_code_points_of_avif_and_heic_are_followed(kind):
    if kind == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    data = encoded(SCENE, kind, quality=90)
    place = data.index(b"colrnclx") + 8

    def told(primaries, transfer):
        return decode(data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :])

    plain, wide = told(1, 13).astype(int), told(12, 13).astype(int)
    assert np.abs(plain - SCENE)[4:20, 4:28].max() < 12
    assert wide[10, 10, 0] > plain[10, 10, 0] + 10  # the same number means a stronger red
    assert np.array_equal(told(1, 1), plain)
    with pytest.raises(Undecodable, match="PQ"):
        told(9, 16)


# -------------------------------------------------------------------------------------- values that are not 8 bits


def test_sixteen_bits_are_scaled_and_white_may_be_zero():
    sixteen = GREY.astype(np.uint16) * 257
    for photometric, values in ((1, sixteen), (0, 65535 - sixteen)):
        data = tiff(values.tobytes(), {258: [16], 262: [photometric], 277: [1]})
        assert np.array_equal(decode(data), three(GREY)), photometric
    assert np.array_equal(decode(b"P5 64 48 65535\n" + sixteen.astype(">u2").tobytes()), three(GREY))
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(decode(grey_16_png(every))[..., 0], np.rint(every / 257.0).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        pytest.param(GREY.astype("<f4") / 255, {258: [32], 339: [3]}, id="float, white is 1"),
        pytest.param(GREY.astype("<f4"), {258: [32], 339: [3]}, id="float, white is 255"),
        pytest.param(GREY.astype("<i4"), {258: [32], 339: [2]}, id="32 bits"),
        pytest.param(GREY.astype("<i2") * 128, {258: [16], 339: [2]}, id="signed"),
    ],
)
def test_values_that_do_not_say_what_is_white_are_refused_before_one_is_decoded(values, tags, monkeypatch):
    def load(self):
        raise AssertionError("A pixel was decoded.")

    for kind in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile):
        monkeypatch.setattr(kind, "load", load)
    data = tiff(values.tobytes(), {262: [1], 277: [1], **tags})
    with pytest.raises(Undecodable, match="do not say what is white"):
        decode(data)


def test_a_pfm_is_refused_by_its_name():
    with pytest.raises(NotAnImage, match="PFM"):
        decode(b"Pf\n64 48\n-1.0\n" + (GREY[::-1].astype("<f4") / 255).tobytes())


# ---------------------------------------------------------------------------------------------------- transparency


def test_the_transparent_value_of_a_png_has_the_png_s_bits():
    half = np.full((48, 64), 0x8080, np.uint16)
    half[:, :32] = 0
    expected = where(half == 0, three(np.full((48, 64), 128)))
    assert np.array_equal(decode(grey_16_png(half, chunk(b"tRNS", b"\0\0"))), expected)
    for depth in (1, 2, 4):
        most = 2**depth - 1
        values = np.arange(16 * 8).reshape(8, 16) % (most + 1)
        data = packed_grey_png(values, depth, chunk(b"tRNS", struct.pack(">H", most - 1)))
        assert np.array_equal(decode(data), where(values == most - 1, three(values * (255 // most)))), depth


def test_a_transparent_colour_of_sixteen_bits_is_refused():
    colour = chunk(b"tRNS", struct.pack(">HHH", 200 * 257, 30 * 257, 30 * 257))
    assert np.array_equal(decode(png(RGB_16, depth=16, colour_type=2)), SCENE)
    with pytest.raises(Undecodable, match="transparent colour"):
        decode(png(RGB_16, depth=16, colour_type=2, before=[colour]))


def test_a_bmp_with_nothing_in_its_alpha_is_opaque():
    assert np.array_equal(decode(bmp(0)), SCENE)
    assert np.array_equal(decode(bmp(255)), SCENE)
    assert np.abs(decode(bmp(1)).astype(int) - 255).max() <= 1  # it was meant


@pytest.mark.parametrize("extra", [{}, {338: [0]}], ids=["not named", "unspecified"])
def test_a_fourth_channel_that_is_not_called_alpha_is_none(extra):
    infrared = np.dstack([SCENE, np.full((48, 64), 90, np.uint8)])
    data = tiff(infrared.tobytes(), {258: [8] * 4, 262: [2], 277: [4], **extra})
    assert np.array_equal(decode(data), SCENE)


def test_a_fourth_channel_that_is_called_alpha_is():
    alpha = np.dstack([SCENE, np.zeros((48, 64), np.uint8)])
    data = tiff(alpha.tobytes(), {258: [8] * 4, 262: [2], 277: [4], 338: [2]})
    assert (decode(data) == 255).all()


def test_a_lab_tiff_is_the_picture():
    lab = ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(Image.fromarray(SCENE), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert np.abs(decode(encoded(stored, "TIFF")).astype(int) - SCENE).max() <= 16  # eight bits of Lab are coarse


# ------------------------------------------------------------------------------------------- what viewers pass over


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(scene_png(packed_text(2_000_000)), id="a long text before"),
        pytest.param(scene_png(after=[packed_text(2_000_000)]), id="after"),
        pytest.param(scene_png(*[packed_text(1_000_000)] * 80), id="80 MB of texts"),
        pytest.param(scene_png(chunk(b"iTXt", b"prompt\0\0\0\0\0" + b"x" * 2_000_000)), id="a long plain text"),
        pytest.param(scene_png(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(9_000_000)))), id="a large profile"),
        pytest.param(scene_png(chunk(b"iCCP", b"p\0\0" + b"garbage")), id="a garbled profile"),
        pytest.param(scene_png(chunk(b"tEXt", b"a\0b", sound=False)), id="a wrong check sum"),
        pytest.param(scene_png(chunk(b"gAMA", struct.pack(">I", 100_000), sound=False)), id="... of a gamma"),
        pytest.param(scene_png(chunk(b"tRNS", bytes(6), sound=False)), id="... of a transparent colour"),
        pytest.param(scene_png()[:-12], id="no end"),
    ],
)
def test_a_sound_png_is_a_picture_whatever_lies_beside_the_pixels(data):
    assert np.array_equal(decode(data), SCENE)


def test_a_large_profile_that_is_one_counts():
    stored = encoded(meant_by(SWAPPED), "PNG")
    padded = SWAPPED + bytes(3_000_000)
    ihdr, rest = stored[:33], stored[33:]
    found = decode(ihdr + chunk(b"iCCP", b"p\0\0" + zlib.compress(padded)) + rest)
    assert np.abs(found.astype(int) - SCENE).max() <= 2


@pytest.mark.parametrize("place", [20, -30], ids=["header", "pixels"])
def test_what_does_not_fit_its_check_sum_and_matters_is_no_picture(place):
    data = bytearray(scene_png())
    data[place] ^= 1
    with pytest.raises(Undecodable):
        decode(bytes(data))


def test_the_placeholder_of_an_animation_is_not_its_first_frame():
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("lime", "blue")]
    data = encoded(SCENE, "PNG", save_all=True, append_images=frames, default_image=True)
    assert (decode(data) == (0, 255, 0)).all()
    assert np.array_equal(decode(encoded(SCENE, "PNG", save_all=True, append_images=frames)), SCENE)


def test_an_orientation_in_xmp_turns_nothing():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>'
    )
    assert decode(encoded(SCENE, "JPEG", xmp=xmp)).shape == SCENE.shape


@pytest.mark.parametrize("tags", [{254: [1]}, {50706: [1]}], ids=["a preview", "DNG"])
def test_a_camera_s_raw_file_is_refused_by_name(tags):
    with pytest.raises(NotAnImage, match="camera raw"):
        decode(tiff(GREY.tobytes(), {258: [8], 262: [1], 277: [1], **tags}))


# --------------------------------------------------------------------------------------------------- photographs


def test_a_picture_of_two_is_reduced_while_it_is_decoded():
    """MPO: phones write a portrait's depth, or the other eye's view, behind the JPEG."""
    big = Image.fromarray(SCENE).resize((1600, 1200), Image.Resampling.NEAREST)
    alone, pair = encoded(big, "JPEG", quality=90), encoded(big, "MPO", save_all=True, append_images=[big], quality=90)
    assert Image.open(io.BytesIO(pair)).format == "MPO"
    limits = ImageLimits(max_side=100)
    in_full = np.asarray(Image.open(io.BytesIO(alone)).resize((133, 100), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(pair, limits), decode(alone, limits))
    assert not np.array_equal(decode(pair, limits), in_full)


def test_heic_is_the_picture_and_its_exif_orientation_counts_for_nothing():
    from pillow_heif import register_heif_opener

    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # ISO/IEC 23008-12: only the file's own boxes turn it
    for options in ({}, {"exif": exif}):
        found = decode(encoded(SCENE, "HEIF", quality=95, **options))
        assert found.shape == SCENE.shape
        assert np.abs(found.astype(int) - SCENE)[4:20, 4:28].max() < 6
    with pytest.raises(NotAnImage, match="HEIC"):
        decode(encoded(SCENE, "HEIF"), ImageLimits(formats=("JPEG",)))


# ------------------------------------------------------------------------------ what was right has stayed the same

rows, columns = np.mgrid[:40, :60]
KEPT = Image.fromarray(np.stack([rows * 6, columns * 4, (rows * columns) % 256], axis=-1).astype(np.uint8))


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def half_clear():
    clear = KEPT.copy()
    clear.putalpha(Image.fromarray((columns * 4).astype(np.uint8)))
    return clear


_PALETTE = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (encoded(KEPT, "PNG"), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT, "BMP"), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT, "TIFF"), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT, "PPM"), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT, "WEBP", lossless=True), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT.convert("L"), "PNG"), "89e8f36052509643cfa748cf6bfc889650fdf878a3b198016979c35e84ab0bae"),
        (encoded(KEPT.convert("L"), "GIF"), "89e8f36052509643cfa748cf6bfc889650fdf878a3b198016979c35e84ab0bae"),
        (encoded(KEPT.convert("CMYK"), "TIFF"), "232f8dc65ebc5c814711e58a5ede61e0b5dd88a52de5f31f8abc3c0df94ac639"),
        (encoded(KEPT, "PNG", **turned()), "c88cd43575d046610a3b9f3274bbc4d648d43fafe5593403f310f21fcc2d1508"),
        (encoded(half_clear(), "PNG"), "3fb63053dd23224496947a7c071de0cdadb634543c80fcf72b6433f13c9816ae"),
        (grey_16_png(rows * columns * 27), "25717afa51cded7659e51c26020baf608cde4f0f13c3a5c872a736b6171bc2d5"),
        (
            b"P5 60 40 4095\n" + (rows * 60).astype(">u2").tobytes(),
            "b58817dd933657ce234a40d8a1cb04fc3c201d2db1d4261271c29a3b75541b5b",
        ),
    ],
    ids=["PNG", "BMP", "TIFF", "PPM", "WebP", "grey", "GIF", "CMYK", "turned", "half clear", "16 bits", "12 bits"],
)
def test_a_picture_keeps_the_digest_that_it_has_always_had(data, digest):
    """Copies of recorded pictures are recognised by it."""
    assert pixel_digest(decode(data)) == digest


@pytest.mark.parametrize("size", [(60, 40), (2400, 1600)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, turned()], ids=["plain", "progressive", "turned"])
def test_a_jpeg_keeps_the_pixels_that_the_first_release_gave_it(size, mode, options):
    data = encoded(KEPT.resize(size).convert(mode), "JPEG", **options)
    image = Image.open(io.BytesIO(data))
    if min(size) >= 1024:
        image.draft("RGB", (768, 512))
    image.load()
    if options == turned():
        image = image.transpose(Image.Transpose.ROTATE_270)
    image = image.convert("RGB")
    if min(image.size) > 512:
        factor = 512 / min(image.size)
        image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)
    assert np.array_equal(decode(data), np.asarray(image))

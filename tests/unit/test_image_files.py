"""A file is known by its first bytes, refused by its name, and met by no decoder that it does not call for."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from models.image import NotAnImage, TooCostly, decode
from models.image_files import MOST_SCANS, check_scans, recognise
from models.spec import FORMATS, KNOWN_FORMATS, ImageLimits
from tests.odd_files import SCENE, encoded, scans, tiled_tiff

NAMED = {
    "PLAIN_PPM": b"P3\n2 2\n255\n" + b"1 " * 12,
    "PFM": b"PF\n2 2\n-1.0\n" + bytes(48),
    "PAM": b"P7\nWIDTH 2\n",
    "PDF": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "JPEG 2000": encoded(SCENE, "JPEG2000"),
    "JPEG XL": b"\xff\x0a" + bytes(30),
    "icon (ICO)": encoded(Image.fromarray(SCENE).resize((16, 16)), "ICO"),
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "FITS": b"SIMPLE  =                    T",
    "camera raw": b"II*\0\x10\0\0\0CR\2\0" + bytes(30),
    "video, or an unknown HEIF brand": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2mp41",
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_is_not_accepted_is_refused_by_its_name(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder has seen it"))
    with pytest.raises(NotAnImage) as refusal:
        decode(NAMED[kind])
    assert (
        str(refusal.value) == f"The file is of the kind {kind}, which is not accepted. Accepted: {', '.join(FORMATS)}."
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_can_be_left_out(kind, monkeypatch):
    if kind == "HEIC":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    data = encoded(SCENE, {"HEIC": "HEIF"}.get(kind, kind))
    assert decode(data).shape == SCENE.shape
    others = tuple(name for name in FORMATS if name != kind)
    with pytest.raises(NotAnImage, match=f"of the kind {kind}, which"):
        decode(data, ImageLimits(formats=others))


def test_a_plain_ppm_is_accepted_where_a_setting_names_it():
    data = b"P3 # a comment\n2 2\n255\n" + b"10 20 30 " * 4
    found = decode(data, ImageLimits(formats=KNOWN_FORMATS))
    assert np.array_equal(found, np.full((2, 2, 3), (10, 20, 30)))


def test_a_file_that_only_begins_like_one_is_told_so():
    for start in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"\0\0\0\x18ftypheic" + bytes(12),
    ):
        assert recognise(start + bytes(100), FORMATS) in FORMATS
        with pytest.raises(ValueError, match="damaged"):
            decode(start + bytes(100))


def test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded(monkeypatch):
    assert decode(scans(MOST_SCANS)).shape == (48, 64, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("a pixel was decoded"))
    with pytest.raises(TooCostly, match=f"more than {MOST_SCANS} scans"):
        decode(scans(MOST_SCANS + 1))


def test_scans_are_counted_in_the_image_alone():
    thumbnails = encoded(SCENE, "JPEG", comment=b"\xff\xda" * 5000)  # as bytes of a comment, or of a thumbnail
    check_scans(thumbnails)
    check_scans(encoded(SCENE, "JPEG") + scans(3000))  # behind the end of the image
    check_scans(encoded(SCENE, "JPEG", progressive=True))


def test_a_tiff_cut_into_single_pixels_is_refused():
    with pytest.raises(TooCostly, match="50,000 pieces"):
        decode(tiled_tiff(230))
    assert decode(tiled_tiff(20)).shape == (20, 20, 3)

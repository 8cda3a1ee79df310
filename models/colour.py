"""Colour conversion: from the colours of a file to sRGB on white, as a browser shows them; unknown ones are refused.

An image whose profile means sRGB keeps its pixels to the bit: a converter would only change them by rounding.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import BmpImagePlugin, Image, ImageCms, TiffImagePlugin

from models import colour_profiles, png
from models.image_errors import Undecodable
from models.image_files import code_points

_NEAR = 2  # of 255: profiles that differ from sRGB by no more than this are treated as sRGB
_STANDARD_GAMMA = 1 / 2.2
_SAME_GAMMA = 0.05  # relative; libpng's PNG_GAMMA_THRESHOLD
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # of a profile's colour space
_PHOTOMETRIC, _SAMPLES, _EXTRA = 262, 277, 338  # TIFF 6.0
_WHITE_IS_ZERO, _RGB = 0, 2


@dataclass(frozen=True)
class Conversion:
    """A conversion from pixels of that mode to sRGB."""

    mode: str  # L, RGB, CMYK or LAB
    transform: ImageCms.ImageCmsTransform

    def __call__(self, image: Image.Image) -> Image.Image:
        """Convert an image of `mode`."""
        converted = ImageCms.applyTransform(image, self.transform)
        assert converted is not None  # not asked to be done in place
        return converted


def check_values(opened: Image.Image) -> None:
    """Refuse an image whose values do not say what is white, before any of them is decoded. Raises Undecodable."""
    if opened.mode == "F" or (opened.mode == "I" and opened.format != "PPM"):
        raise Undecodable(
            "The image has 32-bit, signed or floating-point values, which do not say what is white. "
            "Save it with 8 or 16 bits a channel."
        )


def plain(image: Image.Image, opened: Image.Image, file: png.Png | None = None) -> Image.Image:
    """A loaded image with 8 bits a value, transparent where the file says so. Raises Undecodable.

    opened  the image as it was opened, before rotation: it knows its format.
    file    the chunks of a PNG.
    """
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        image = _plain_tiff(image, opened)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bits(image, opened)
    if (
        isinstance(opened, BmpImagePlugin.BmpImageFile)
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    ):
        return image.convert("RGB")  # no alpha was meant: the program left the fourth byte empty
    if file is not None:
        _mend_transparency(image, file)
    return image


def _plain_tiff(image: Image.Image, opened: TiffImagePlugin.TiffImageFile) -> Image.Image:
    tags = opened.tag_v2
    if tags.get(_PHOTOMETRIC) == _RGB and tags.get(_SAMPLES, 1) > 3 and not tags.get(_EXTRA):
        return image.convert("RGB")  # a fourth channel that is not declared as alpha: infrared, mostly
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return Image.fromarray(65535 - np.asarray(image).astype(np.uint16))
    return image


def _to_8_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """An image of 8 bits a value, scaled from up to 16 bits as viewers do; Pillow would clip values at 255."""
    values = np.asarray(image).clip(0, 65535).astype(np.uint32)
    transparent = opened.info.get("transparency")
    seen = None if transparent is None else Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    values += 128  # so that the division rounds: x / 257 is never halfway between two numbers
    values //= 257
    grey = Image.fromarray(values.astype(np.uint8))
    return grey if seen is None else Image.merge("LA", (grey, seen))


def _mend_transparency(image: Image.Image, file: png.Png) -> None:
    """Scale the transparent value, which has the file's depth, to the 8 bits that Pillow compares it with."""
    transparent = image.info.get("transparency")
    if transparent is None or file.colour_type not in (0, 2):
        return
    if file.depth == 16:
        raise Undecodable("The PNG has 16 bits a channel and a transparent colour. Save it with an alpha channel.")
    if file.depth in (2, 4):
        image.info["transparency"] = transparent * 255 // (2**file.depth - 1)


def profile(opened: Image.Image, file: png.Png | None, data: bytes) -> bytes | None:
    """The ICC profile of a file's colours; None for sRGB. Raises Undecodable.

    file  the chunks of a PNG.
    data  the file itself: Pillow does not report an AVIF's code points.
    """
    if file is not None:
        return _of_png(file)
    if given := opened.info.get("icc_profile"):
        return bytes(given)
    points = code_points(data) if opened.format in ("AVIF", "HEIF") else None
    return colour_profiles.of_code_points(*points) if points is not None else None


def _of_png(file: png.Png) -> bytes | None:
    """A PNG's profile, by the order of PNG (third edition), 4.3: cICP, iCCP, sRGB, then gAMA and cHRM."""
    if len(points := file.said.get(b"cICP", b"")) == 4:
        return colour_profiles.of_code_points(points[0], points[1])
    if file.profile is not None:
        return file.profile
    if b"sRGB" in file.said:
        return None
    gamma, points_xy = file.gamma, file.chromaticities
    if gamma is not None and abs(gamma / _STANDARD_GAMMA - 1.0) < _SAME_GAMMA:
        gamma = None
    if gamma is None and points_xy is None:
        return None
    return colour_profiles.of_primaries(points_xy or colour_profiles.SRGB, gamma)


def conversion(given: bytes | None, mode: str) -> Conversion | None:
    """The conversion of an image of that mode to sRGB; None if it is not needed, or the profile is unusable.

    A profile of another colour space (CMYK, on an RGB image) or a damaged one is ignored, as browsers do.
    """
    if mode == "LAB":
        return _conversion(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")
    wanted = _MODES.get(given[16:20]) if given is not None else None
    if given is None or wanted is None or (wanted == "CMYK") != (mode == "CMYK"):
        return None
    if wanted == "L" and mode not in ("1", "L", "LA", "La"):
        return None
    try:
        found = _conversion(ImageCms.ImageCmsProfile(io.BytesIO(given)), wanted)
        return None if wanted != "CMYK" and _changes_nothing(found) else found
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _conversion(source: ImageCms.ImageCmsProfile, mode: str) -> Conversion:
    found = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    return Conversion(mode, found)


def _changes_nothing(found: Conversion) -> bool:
    """Whether a conversion changes pixels by rounding alone, tried on 9 x 9 x 9 colours, or all greys."""
    steps = np.arange(256) if found.mode == "L" else np.arange(0, 256, 255 // 8)[:9]
    axes = np.meshgrid(*[steps] * 3, indexing="ij") if found.mode == "RGB" else [steps]
    colours = np.stack([axis.ravel() for axis in axes], axis=-1).astype(np.uint8)[None]  # [1, n, 1 or 3]
    shown = np.asarray(found(Image.fromarray(colours if found.mode == "RGB" else colours[..., 0])))
    return bool(np.abs(shown.astype(int) - colours).max() <= _NEAR)


def is_transparent(image: Image.Image) -> bool:
    """Whether a `plain` image may have transparent pixels."""
    return image.mode in _WITH_ALPHA or "transparency" in image.info


def on_white(image: Image.Image, found: Conversion | None) -> Image.Image:
    """An image with transparency, converted first, on white; RGB."""
    clear = image.convert("RGBA")
    if found is not None:
        colours = clear.getchannel("R") if found.mode == "L" else clear.convert("RGB")
        converted = found(colours)
        converted.putalpha(clear.getchannel("A"))
        clear = converted
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, clear).convert("RGB")


def opaque(image: Image.Image, found: Conversion | None) -> Image.Image:
    """An image without transparency, in the mode that its conversion takes; RGB without one."""
    mode = found.mode if found is not None else "RGB"
    return image if image.mode == mode else image.convert(mode)

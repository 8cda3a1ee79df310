"""From bytes a stranger sent to pixels a model can use.

Promises: the picture as a person would see it (EXIF rotation applied, first frame of an animation, transparency on
white, CMYK and 16-bit converted), as RGB uint8 [height, width, 3] with its shorter side at most `max_side`; all
metadata is left behind. Size limits are checked from the header, before any pixel is decoded, so a decompression bomb
above them costs nothing; below them, decoding takes up to 15 bytes a pixel. Does not promise the same pixels across
releases of the JPEG decoder.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from models.spec import ImageLimits, sha256

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


class ImageError(ValueError):
    """The upload cannot become a sample; the message says why, in words for the sender."""


class NotAnImage(ImageError):
    """The bytes are of no image format that is accepted."""


class Undecodable(ImageError):
    """The bytes begin like an image, and cannot be decoded to the end."""


class AbsurdDimensions(ImageError):
    """The image is too small, too large or too narrow to learn from."""


def decode(data: bytes, limits: ImageLimits = ImageLimits()) -> Pixels:
    """Pixels [height, width, 3] of an encoded image.

    Raises NotAnImage, Undecodable or AbsurdDimensions.
    """
    if not data:
        raise NotAnImage("The file is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _canonical(image, limits)
    except UnidentifiedImageError:
        raise NotAnImage(f"The file is not an image. Accepted: {', '.join(FORMATS)}.") from None
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise AbsurdDimensions("The image has too many pixels.") from None
    except Exception:  # Pillow's decoders raise a dozen types on malformed data
        raise Undecodable("The image is damaged or truncated and cannot be decoded.") from None


def _canonical(image: Image.Image, limits: ImageLimits) -> Pixels:
    _check_dimensions(image.width, image.height, limits)
    shorter = min(image.size)
    if image.format == "JPEG" and shorter >= 2 * limits.max_side:
        # The decoder reduces by 2, 4 or 8 while decoding: a 50-megapixel photo costs a tenth of the time.
        factor = limits.max_side / shorter
        image.draft("RGB", (int(image.width * factor), int(image.height * factor)))
    rgb = _to_rgb(_upright(image))
    shorter = min(rgb.size)
    if shorter > limits.max_side:
        factor = limits.max_side / shorter
        size = (max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor)))
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(rgb, dtype=np.uint8).copy()


def _check_dimensions(width: int, height: int, limits: ImageLimits) -> None:
    if width < 2 or height < 2:
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; at least 2 x 2 are needed.")
    if width * height > limits.max_pixels:
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; at most {limits.max_pixels:,} are accepted.")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; that is too narrow to learn from.")


# EXIF orientation -> what makes it upright again (Exif 2.32, 4.6.5, tag 0x0112)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation asks.

    `ImageOps.exif_transpose` would also write all other tags anew, and fails where a camera wrote an odd one.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not spoil the picture
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey to 255 on conversion; a person would see it scaled.
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((values.clip(0, 65535) / 257.0).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def pixel_digest(pixels: Pixels) -> str:
    """Hex SHA-256 of an image's shape and pixels: the same picture, the same digest, whatever file it came in."""
    height, width, _ = pixels.shape
    return sha256(b"oubli/image/1", f"{height}x{width}".encode(), np.ascontiguousarray(pixels).tobytes())

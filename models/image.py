"""Decoding: from the bytes of an uploaded file to pixels that a model can use.

Promises: the image as a browser shows it (EXIF rotation applied, first frame of an animation, transparency on white,
colour profiles, CMYK and 16-bit converted to sRGB), as RGB uint8 [height, width, 3] with its shorter side at most
`max_side`; all metadata is left behind. Size limits are checked from the header, before any pixel is decoded, so a
decompression bomb above them costs nothing; below them, decoding takes up to 16 bytes a pixel, and a file that is made
for it can take minutes: services decode in processes that are bounded (`service.decoding`). Does not promise the same
pixels across releases of the decoders.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from models import colour, png
from models.image_errors import AbsurdDimensions, ImageError, NotAnImage, TooCostly, Undecodable
from models.image_files import check_scans, recognise
from models.spec import ImageLimits, sha256

__all__ = [
    "AbsurdDimensions",
    "ImageError",
    "NotAnImage",
    "Pixels",
    "TooCostly",
    "Undecodable",
    "decode",
    "pixel_digest",
]

Pixels = npt.NDArray[np.uint8]

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # an image is decoded on one core: other processes decode other images
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {  # imported here, so that Pillow need not import all it has
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "PLAIN_PPM": PpmImagePlugin.PpmImageFile,
}
_MOST_PIECES = 50_000  # strips or tiles of a TIFF, each a turn of Pillow's own loop; 50 megapixels in rows are 21,000
_NEW_SUBFILE, _DNG_VERSION = 254, 50706  # tags of TIFF 6.0 and of DNG
_REDUCED = 1  # in `_NEW_SUBFILE`


def decode(data: bytes, limits: ImageLimits = ImageLimits()) -> Pixels:
    """Pixels [height, width, 3] of an encoded image.

    Raises NotAnImage, Undecodable, AbsurdDimensions or TooCostly.
    """
    kind = recognise(data, limits.formats)
    try:
        if kind == "JPEG":
            check_scans(data)
        file = png.read(data) if kind == "PNG" else None
        with _opened(data if file is None else file.data, kind) as image:
            return _canonical(image, limits, file, data)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise Undecodable(f"The file begins as {kind}, and is damaged or of a kind that cannot be decoded.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise AbsurdDimensions("The image has too many pixels.") from None
    except MemoryError:
        raise TooCostly("The image needs more memory to be decoded than any photograph does.") from None
    except Exception:  # Pillow's decoders raise a dozen types on malformed data
        raise Undecodable("The image is damaged or truncated and cannot be decoded.") from None


def _opened(data: bytes, kind: str) -> Image.Image:
    """Open an image with the decoder of that kind alone."""
    if kind == "HEIC":
        register_heif()
    name = _DECODERS[kind].format if kind in _DECODERS else "HEIF"
    return Image.open(io.BytesIO(data), formats=(str(name),))


@functools.cache
def register_heif() -> None:
    """Let Pillow open HEIC, by libheif; not at import, which would make every other image wait for it."""
    from pillow_heif import register_heif_opener

    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _canonical(image: Image.Image, limits: ImageLimits, file: png.Png | None, data: bytes) -> Pixels:
    _check_dimensions(image.width, image.height, limits)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    colour.check_values(image)
    shorter = min(image.size)
    if isinstance(image, JpegImagePlugin.JpegImageFile) and shorter >= 2 * limits.max_side:
        # The decoder reduces by 2, 4 or 8 while decoding: a 50-megapixel photo costs a tenth of the time.
        factor = limits.max_side / shorter
        image.draft("RGB", (int(image.width * factor), int(image.height * factor)))
    if isinstance(image, PngImagePlugin.PngImageFile) and image.info.get("default_image"):
        image.seek(1)  # a placeholder for viewers that know no animation comes before the first frame
    upright = _upright(image)
    _check_dimensions(upright.width, upright.height, limits)  # HEIF tells them before decoding, and may be wrong
    plain = colour.plain(upright, image, file)
    conversion = colour.conversion(colour.profile(image, file, data), plain.mode)
    if colour.is_transparent(plain):
        plain, conversion = colour.on_white(plain, conversion), None
    rgb = _reduced(colour.opaque(plain, conversion), limits.max_side)
    if conversion is not None:  # of few pixels: it is the slower, the more there are
        rgb = conversion(rgb)
    return np.asarray(rgb, dtype=np.uint8).copy()


def _reduced(image: Image.Image, max_side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= max_side:
        return image
    factor = max_side / shorter
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _check_dimensions(width: int, height: int, limits: ImageLimits) -> None:
    if width < 2 or height < 2:
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; at least 2 x 2 are needed.")
    if width * height > limits.max_pixels:
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; at most {limits.max_pixels:,} are accepted.")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise AbsurdDimensions(f"The image is {width} x {height} pixels; that is too narrow to learn from.")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    tags = image.tag_v2
    if _DNG_VERSION in tags or tags.get(_NEW_SUBFILE, 0) & _REDUCED:
        raise NotAnImage("The file is a camera raw file, or begins with a preview of its image. Save it as JPEG.")
    if len(image.tile) > _MOST_PIECES:
        raise TooCostly(f"The TIFF is cut into more than {_MOST_PIECES:,} pieces. Save it again, in larger ones.")


# EXIF orientation -> the transposition that makes the image upright (Exif 2.32, 4.6.5, tag 0x0112)
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
    """The image, rotated as its EXIF orientation asks; XMP's is ignored, as browsers do.

    `ImageOps.exif_transpose` would also rewrite all other tags, and fails where a camera wrote an odd one.
    """
    image.load()
    for xmp in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(xmp, None)
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata does not spoil the picture
        return image
    return image if turn is None else image.transpose(turn)


def resized(pixels: Pixels, side: int) -> Pixels:
    """Pixels resized (bicubic) to uint8 [3, side, side], the input of a backbone."""
    image = Image.fromarray(pixels)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def pixel_digest(pixels: Pixels) -> str:
    """Hex SHA-256 of an image's shape and pixels: the same image has the same digest, whatever file it came in."""
    height, width, _ = pixels.shape
    return sha256(b"oubli/image/1", f"{height}x{width}".encode(), np.ascontiguousarray(pixels).tobytes())

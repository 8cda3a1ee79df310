"""Errors of uploaded images: why each cannot become a sample, in words for its sender."""

from __future__ import annotations


class ImageError(ValueError):
    """The upload cannot become a sample; the message says why, in words for the sender."""


class NotAnImage(ImageError):
    """The bytes are of no image format that is accepted."""


class Undecodable(ImageError):
    """The bytes begin like an image, but cannot be decoded to the end, or not to the right colours."""


class AbsurdDimensions(ImageError):
    """The image is too small, too large or too narrow to learn from."""


class TooCostly(ImageError):
    """Decoding the image takes more time or memory than any photograph's does."""

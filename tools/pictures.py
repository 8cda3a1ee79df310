"""Draws the two pictures of the walks, docs/pictures/cat.jpg and dog.jpg: our own, so that they may be given to anyone.

`python -m tools.pictures`. Drawn four times as large and reduced, which smooths the edges.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SIDE = 192  # pixels
SCALE = 4
Point = tuple[float, float]


def _ellipse(draw: ImageDraw.ImageDraw, centre: Point, radii: Point, fill: str) -> None:
    (x, y), (across, down) = centre, radii
    box = [SCALE * (x - across), SCALE * (y - down), SCALE * (x + across), SCALE * (y + down)]
    draw.ellipse(box, fill=fill)


def _polygon(draw: ImageDraw.ImageDraw, *points: Point, fill: str) -> None:
    draw.polygon([(SCALE * x, SCALE * y) for x, y in points], fill=fill)


def cat() -> Image.Image:
    """A grey cat's face with pointed ears, on green."""
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "#8fbf7f")
    draw = ImageDraw.Draw(image)
    for left in (1, -1):
        _polygon(draw, (96 - 62 * left, 22), (96 - 60 * left, 92), (96 - 12 * left, 56), fill="#5d6470")
        _polygon(draw, (96 - 54 * left, 40), (96 - 52 * left, 78), (96 - 26 * left, 60), fill="#d9a3a8")
    _ellipse(draw, (96, 108), (66, 58), "#6c7480")
    for left in (1, -1):
        _ellipse(draw, (96 - 28 * left, 96), (14, 12), "#d7e36b")
        _ellipse(draw, (96 - 28 * left, 96), (4, 11), "#101014")
        for rise in (-8, 0, 8):
            line = [SCALE * (96 - 14 * left), SCALE * 130, SCALE * (96 - 78 * left), SCALE * (126 + rise)]
            draw.line(line, fill="#e8e8ee", width=SCALE)
    _polygon(draw, (88, 116), (104, 116), (96, 126), fill="#d98a92")
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def dog() -> Image.Image:
    """A brown dog's face with hanging ears and its tongue out, on blue."""
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "#9cc4e8")
    draw = ImageDraw.Draw(image)
    _ellipse(draw, (96, 100), (58, 66), "#b9793f")
    for left in (1, -1):
        _ellipse(draw, (96 - 62 * left, 92), (20, 54), "#6f4320")
        _ellipse(draw, (96 - 24 * left, 82), (9, 10), "#1b1410")
        _ellipse(draw, (96 - 26 * left, 79), (3, 3), "#ffffff")
    _ellipse(draw, (96, 128), (36, 32), "#e6c59c")
    _ellipse(draw, (96, 154), (13, 20), "#e07a86")
    _ellipse(draw, (96, 142), (24, 8), "#e6c59c")
    _ellipse(draw, (96, 110), (15, 11), "#1b1410")
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    """Write both."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, image in (("cat", cat()), ("dog", dog())):
        image.save(FOLDER / f"{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()

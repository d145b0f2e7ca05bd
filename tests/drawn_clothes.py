"""A table of drawn clothes, as a shop has one: type, colour, pattern (sometimes unknown), price and seller."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.drawn_shapes import write_table

SIDE = 64
OUTLINES = {
    "Shirt": [(8, 14), (20, 6), (44, 6), (56, 14), (50, 26), (45, 22), (45, 58), (19, 58), (19, 22), (14, 26)],
    "Trousers": [(18, 4), (46, 4), (52, 60), (38, 60), (32, 24), (26, 60), (12, 60)],
    "Dress": [(24, 4), (40, 4), (40, 24), (56, 60), (8, 60), (24, 24)],
}
COLOURS = {"navy blue": "navy", "red": "firebrick", "grün": "seagreen"}
PATTERNS = ("plain", "striped", "dotted")


def draw(article: str, colour: str, pattern: str) -> Image.Image:
    """A garment on white."""
    cloth = Image.new("RGB", (SIDE, SIDE), COLOURS[colour])
    pen = ImageDraw.Draw(cloth)
    for low in range(0, SIDE, 8):
        if pattern == "striped":
            pen.rectangle((0, low, SIDE, low + 2), fill="white")
        elif pattern == "dotted":
            for left in range(0, SIDE, 8):
                pen.ellipse((left, low, left + 3, low + 3), fill="white")
    shape = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(shape).polygon(OUTLINES[article], fill=255)
    return Image.composite(cloth, Image.new("RGB", (SIDE, SIDE), "white"), shape)


def write_clothes(folder: Path, count: int) -> Path:
    """<folder>/photos/item-<number>.jpg, and <folder>/products.csv, which it returns. Six garments are a seller's."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number in range(count):
        article, colour = [*OUTLINES][number % 3], [*COLOURS][number // 3 % 3]
        pattern = PATTERNS[number // 9 % 3]
        draw(article, colour, pattern).save(folder / "photos" / f"item-{number}.jpg")
        rows.append(
            {
                "photo": f"item-{number}.jpg",
                "Article Type": article,
                "Base Colour": colour,
                "pattern": "" if number % 10 == 3 else pattern,
                "price (EUR)": f"{15 + number * 13 % 80}.90",
                "seller": f"shop {number // 6}",
            }
        )
    return write_table(folder / "products.csv", rows)

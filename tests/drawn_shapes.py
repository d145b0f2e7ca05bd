"""A table of drawn shapes, each of a kind, a colour and a size in pixels."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image, ImageDraw

KINDS, COLOURS = ("circle", "square", "triangle"), ("red", "green", "blue")
SIDE = 48


def draw(kind: str, colour: str, size: int) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    low, high = (SIDE - size) // 2, (SIDE + size) // 2
    pen = ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse((low, low, high, high), fill=colour)
    elif kind == "square":
        pen.rectangle((low, low, high, high), fill=colour)
    else:
        pen.polygon(((SIDE // 2, low), (low, high), (high, high)), fill=colour)
    return image


def shape(number: int) -> tuple[str, str, int]:
    """Kind, colour and size; all combinations of kind and colour come in turn."""
    return KINDS[number % 3], COLOURS[number // 3 % 3], 10 + number * 7 % 31


def draw_shapes(folder: Path, count: int) -> None:
    """<folder>/images/<number>.png"""
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        draw(*shape(number)).save(folder / "images" / f"{number}.png")


def shape_rows(count: int) -> list[dict[str, str]]:
    """file, kind, colour and size of each."""
    rows = []
    for number in range(count):
        kind, colour, size = shape(number)
        rows.append({"file": f"images/{number}.png", "kind": kind, "colour": colour, "size": str(size)})
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path

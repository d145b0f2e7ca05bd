"""The geometry of the report's charts; report.html draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.tuning.reliability import Reliability

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 30
"""Margins of the axes, in the units of the viewBox."""

SQUARE = 190
"""Of the axes of a reliability diagram."""
SPARK_WIDTH, SPARK_HEIGHT = 90, 20


@dataclass(frozen=True)
class Line:
    """points: "x,y x,y ..."; dots: the points where there are few, or alone"""

    name: str
    points: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class LineChart:
    """x_ticks, y_ticks: positions and labels; marked: the position of the marked x"""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marked: float | None


def line_chart(
    title: str, curves: Mapping[str, Points], marked: float | None = None, whole: tuple[float, float] | None = None
) -> LineChart | None:
    """Curves over the epochs; None where there is no point.

    marked: an epoch, such as the best
    whole: the least and the greatest value of the axis; None: by the points"""
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    y_values = ticks(*(whole or (min(ys), max(ys))))
    x_values = [x for x in ticks(min(xs), max(xs), 6) if x == int(x) and min(xs) <= x <= max(xs)] or [min(xs)]
    low, high = y_values[0], y_values[-1]
    first, last = min(xs), max(xs)

    def x_of(value: float) -> float:
        share = (value - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        share = (value - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for name, points in curves.items():
        placed = [(x_of(x), y_of(y)) for x, y in points]
        lines.append(Line(name, _joined(placed), placed if len(placed) < 2 else []))
    return LineChart(
        title,
        lines,
        [(x_of(x), f"{x:.0f}") for x in x_values],
        [(y_of(y), f"{y:.6g}") for y in y_values],
        x_of(marked) if marked is not None and first <= marked <= last else None,
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose a range, about so many."""
    if high <= low:
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / (about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def sparkline(values: Sequence[float | None]) -> str:
    """The points of a small curve from 0 to 1; "" of fewer than two values."""
    known = [(number, value) for number, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return ""
    step = (SPARK_WIDTH - 4) / (len(values) - 1)
    return _joined([(2 + number * step, SPARK_HEIGHT - 2 - value * (SPARK_HEIGHT - 4)) for number, value in known])


@dataclass(frozen=True)
class ReliabilityLine:
    """dots: x, y and radius of each bin with images, and what it holds in words"""

    points: str
    dots: list[tuple[float, float, float, str]]


def reliability_line(found: Reliability) -> ReliabilityLine:
    """A dot's area is by the bin's number of images."""
    dots = []
    for confidence, right, count in zip(found.confidence, found.right, found.count, strict=True):
        if count:
            radius = 2 + 7 * math.sqrt(count / found.count.sum())
            text = f"{count} images: probability {confidence:.2f}, right {right:.2f}"
            x, y = LEFT + confidence * SQUARE, TOP + (1 - right) * SQUARE
            dots.append((round(float(x), 1), round(float(y), 1), round(radius, 1), text))
    return ReliabilityLine(_joined([dot[:2] for dot in dots]), dots)


def _joined(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

"""How everything here is measured: contenders in turn, round after round, and ratios within the rounds.

A machine's speed drifts, and alike for measurements that follow each other. So the contenders of a row run A B C,
A B C, ..., after a round that is not counted; a ratio is taken within each round, and reported are the median of these
ratios, the lowest and the highest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import torch

Contender = Callable[[], float]
"""Does its work once and returns what was measured, such as images/s."""

Values = list[float]
"""One a round."""


@dataclass(frozen=True)
class Target:
    """What a figure must reach and should reach.

    floor: it must be at least this
    aim: it should be at least this
    less_is_better: "at most" instead of "at least"
    """

    floor: float
    aim: float
    less_is_better: bool = False


@dataclass(frozen=True)
class Figure:
    """One line of a table, with one value a round."""

    name: str
    unit: str
    values: Values
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def verdict(self) -> str:
        """What the median reaches: "aim", "floor", "below the floor", or "" without a target."""
        if self.target is None:
            return ""
        sign = -1 if self.target.less_is_better else 1
        for name, least in (("aim", self.target.aim), ("floor", self.target.floor)):
            if sign * self.median >= sign * least:
                return name
        return "below the floor"


@dataclass
class Row:
    """The measurements of one module of benchmarks/speed/rows.

    title: of the table
    figures: its lines
    settings: what they depend on
    notes: what a reader must know
    missing: why a contender was not measured, by name
    """

    title: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Values]:
    """Every contender once a round, in order, `rounds` times, after one round that warms up and is not counted."""
    for measure in contenders.values():
        measure()
    values: dict[str, Values] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            values[name].append(measure())
    return values


def ratios(over: Sequence[float], under: Sequence[float]) -> Values:
    """over / under, round by round."""
    return [above / below for above, below in zip(over, under, strict=True)]


def fastest(values: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """The one of `names` with the highest median."""
    return max(names, key=lambda name: statistics.median(values[name]))


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes, by the wall clock."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def one_thread() -> Iterator[None]:
    """Restricts OpenCV and torch to one thread, so that one process means one core for every contender."""
    earlier = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(earlier[0])
        cv2.setNumThreads(earlier[1])

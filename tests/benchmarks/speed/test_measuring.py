"""The order of measurements, and the statistics, by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import pytest
import torch

from benchmarks.speed.feeding import drained
from benchmarks.speed.measuring import Figure, Target, fastest, interleaved, ratios
from benchmarks.speed.rows.waiting import simulated_epoch


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []

    def contender(name: str, values: Iterator[float]) -> float:
        order.append(name)
        return next(values)

    ones, tens = iter([999.0, 1.0, 2.0, 3.0]), iter([999.0, 10.0, 40.0, 90.0])
    values = interleaved({"a": lambda: contender("a", ones), "b": lambda: contender("b", tens)}, 3)
    assert "".join(order) == "abababab"
    assert values == {"a": [1.0, 2.0, 3.0], "b": [10.0, 40.0, 90.0]}
    assert fastest(values, ["a", "b"]) == "b"


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that is half as fast in one round: the ratio does not show it, that of the medians would."""
    ours, theirs = [100.0, 50.0, 120.0], [10.0, 5.0, 6.0]
    assert ratios(ours, theirs) == [10.0, 10.0, 20.0]
    assert Figure("ratio", "x", ratios(ours, theirs)).median == 10.0


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (10.0, Target(7, 10), "aim"),
        (9.9, Target(7, 10), "floor"),
        (6.9, Target(7, 10), "below the floor"),
        (1.0, Target(2, 1, less_is_better=True), "aim"),
        (2.1, Target(2, 1, less_is_better=True), "below the floor"),
        (10.0, None, ""),
    ],
)
def test_verdicts(value: float, target: Target | None, verdict: str) -> None:
    assert Figure("figure", "x", [value, 1e9, -1e9], target).verdict() == verdict


def test_a_drain_counts_every_image_in_one_thread() -> None:
    before = (torch.get_num_threads(), cv2.getNumThreads())

    def begin() -> Iterator[tuple[torch.Tensor, None]]:
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        for size in (4, 4, 2):
            time.sleep(0.01)
            yield torch.zeros(size, 3, 4, 4), None

    assert 0 < drained(begin)() <= 10 / 0.03  # ten images in three sleeps, at the least
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_a_simulated_net_waits_for_slow_batches_and_is_busy_with_them() -> None:
    def slow() -> Iterator[tuple[torch.Tensor, None]]:
        for _ in range(3):
            time.sleep(0.02)
            yield torch.zeros(10, 1), None

    epoch = simulated_epoch(slow(), rate=1000)
    assert epoch.waited >= 0.02 + 2 * 0.01  # for the first batch; the others are asked for while the net is busy
    assert epoch.seconds == pytest.approx(epoch.waited + 3 * 10 / 1000, abs=1e-4)
    assert epoch.share_waited == pytest.approx(100 * epoch.waited / epoch.seconds)
    ready = simulated_epoch([(torch.zeros(10, 1), None)] * 3, rate=1000)
    assert ready.seconds >= 3 * 10 / 1000
    assert ready.waited < epoch.waited

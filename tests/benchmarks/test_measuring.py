"""The order of measurements, and the statistics, by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from benchmarks.feeding import drained, images_of, read_every_byte
from benchmarks.measuring import Figure, Target, fastest, interleaved, one_thread, ratios, seconds_of
from benchmarks.rows.waiting import simulated_epoch


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
    figure = Figure("ratio", "x", ratios(ours, theirs))
    assert figure.median == 10.0
    assert figure.median != 100.0 / 6.0  # of the medians


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (10.0, Target(7, 10), "aim"),
        (9.9, Target(7, 10), "floor"),
        (6.9, Target(7, 10), "below the floor"),
        (1.0, Target(2, 1, less_is_better=True), "aim"),
        (1.5, Target(2, 1, less_is_better=True), "floor"),
        (2.1, Target(2, 1, less_is_better=True), "below the floor"),
        (-3.0, Target(2, 1, less_is_better=True), "aim"),
        (10.0, None, ""),
    ],
)
def test_verdicts(value: float, target: Target | None, verdict: str) -> None:
    assert Figure("figure", "x", [value, 1e9, -1e9], target).verdict() == verdict


def test_one_thread_and_back() -> None:
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    with one_thread():
        assert torch.get_num_threads() == 1
        assert cv2.getNumThreads() == 1
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (torch_threads, cv2_threads)


def test_seconds_cover_the_work() -> None:
    assert seconds_of(lambda: time.sleep(0.02)) >= 0.02


def test_a_drain_counts_every_image_of_every_epoch_in_one_thread() -> None:
    epochs: list[int] = []
    threads: set[tuple[int, int]] = set()
    seen: list[int] = []

    def begin() -> Iterator[tuple[torch.Tensor, None]]:
        epochs.append(1)
        threads.add((torch.get_num_threads(), cv2.getNumThreads()))
        for size in (4, 4, 2):
            time.sleep(0.01)
            yield torch.zeros(size, 3, 4, 4), None

    rate = drained(begin, 3, lambda images: seen.append(len(images)))()
    assert threads == {(1, 1)}
    assert len(epochs) == 3
    assert seen == [4, 4, 2] * 3
    assert 0 < rate <= 30 / 0.09  # 30 images in nine sleeps, at the least


def test_every_byte_is_read_in_either_layout() -> None:
    memory = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    batch = (torch.from_numpy(memory).permute(0, 3, 1, 2), None)
    words = memory.reshape(-1).view(np.int64)
    assert read_every_byte(images_of(batch)) == int(words.sum())
    planes = np.ascontiguousarray(memory.transpose(0, 3, 1, 2))
    assert read_every_byte(torch.from_numpy(planes)) == int(planes.reshape(-1).view(np.int64).sum())
    for place in (0, 37, 95):  # whichever byte it is, another value gives another sum
        changed = memory.copy()
        changed.reshape(-1)[place] ^= 1
        assert read_every_byte(torch.from_numpy(changed).permute(0, 3, 1, 2)) != int(words.sum())


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

"""Uniform numbers for many keys at once, against numpy's own generator."""

from __future__ import annotations

import time

import numpy as np
import pytest

from utils.random_streams import _key, uniform_rows


@pytest.mark.parametrize("num_columns", [1, 4, 7, 32])
def test_each_row_is_what_numpy_draws_for_its_key(num_columns: int) -> None:
    stream = np.random.default_rng(0)
    indices = np.array([0, 1, 2**40, 2**63, *stream.integers(0, 20_000, 12)], dtype=np.uint64)
    repeats = np.array([0, 0, 3, 2**33, *stream.integers(0, 4, 12)], dtype=np.uint64)
    rows = uniform_rows(3, "augmentation", 7, indices, repeats, num_columns)
    for row, index, repeat in zip(rows, indices.tolist(), repeats.tolist(), strict=True):
        philox = np.random.Philox(key=_key(3, "augmentation", (7,)), counter=[0, index, repeat, 0])
        words = philox.random_raw(num_columns)
        assert np.array_equal(row, (words >> np.uint64(11)) / 2**53)


def test_a_row_depends_on_its_own_key_alone() -> None:
    indices, repeats = np.arange(10), np.arange(10) % 3
    rows = uniform_rows(1, "a", 2, indices, repeats, 9)
    order = np.array([7, 0, 3])
    assert np.array_equal(uniform_rows(1, "a", 2, indices[order], repeats[order], 9), rows[order])
    assert np.array_equal(uniform_rows(1, "a", 2, indices, repeats, 5), rows[:, :5])
    for other in (
        uniform_rows(2, "a", 2, indices, repeats, 9),
        uniform_rows(1, "b", 2, indices, repeats, 9),
        uniform_rows(1, "a", 3, indices, repeats, 9),
        uniform_rows(1, "a", 2, indices + 10, repeats, 9),
        uniform_rows(1, "a", 2, indices, repeats + 3, 9),
    ):
        assert not np.intersect1d(other, rows).size


def test_rows_are_uniform_and_uncorrelated() -> None:
    rows = uniform_rows(1, "a", 0, np.arange(4000), np.zeros(4000, np.int64), 8)
    assert rows.min() >= 0
    assert rows.max() < 1
    counts = np.histogram(rows, 20, (0, 1))[0]
    assert ((counts - 1600) ** 2 / 1600).sum() < 44  # chi-squared of 19 degrees of freedom: p = 0.001
    correlation = np.corrcoef(np.column_stack([rows[:-1], rows[1:]]), rowvar=False)
    assert np.abs(correlation - np.eye(16)).max() < 0.07


def test_a_batch_takes_a_fraction_of_a_millisecond() -> None:
    indices, repeats = np.arange(64), np.zeros(64, np.int64)
    seconds = []
    for _ in range(20):
        start = time.thread_time()
        uniform_rows(1, "a", 0, indices, repeats, 32)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.002  # 0.15 ms where it was written

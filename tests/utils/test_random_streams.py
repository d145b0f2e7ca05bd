"""Draws depend on their key alone, and unlike keys are unrelated."""

from __future__ import annotations

import itertools
import pickle

import numpy as np

from utils.random_streams import StreamPair, numpy_stream, python_stream, torch_seed


def test_equal_keys_draw_alike_in_any_order() -> None:
    keys = list(itertools.product((0, 42), ("order", "augmentation"), (0, 1, 2), (0, 7)))
    forward = {key: numpy_stream(*key).random(4).tolist() for key in keys}
    backward = {key: numpy_stream(*key).random(4).tolist() for key in reversed(keys)}
    assert forward == backward
    assert len({tuple(draws) for draws in forward.values()}) == len(keys)


def test_neighbouring_keys_are_uncorrelated() -> None:
    draws = np.array([numpy_stream(1, "augmentation", 0, index).random(8) for index in range(4000)])
    correlation = np.corrcoef(np.column_stack([draws[:-1], draws[1:]]), rowvar=False)
    assert np.abs(correlation - np.eye(16)).max() < 0.07
    assert abs(draws.mean() - 0.5) < 0.01


def test_numbers_are_not_run_together() -> None:
    assert torch_seed(1, "a", 1, 23) != torch_seed(1, "a", 12, 3)
    assert python_stream(1, "a", 1).random() != python_stream(11, "a").random()


def test_seeds_are_what_torch_takes() -> None:
    seeds = [torch_seed(7, "model", number) for number in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_kept_pair_of_generators_is_that_of_each_key_whatever_was_drawn_before() -> None:
    pair = StreamPair()
    for number in range(50):
        key = (7 * number, "augmentation", number % 3, number)
        pair.set_key(*key)
        python, own = python_stream(*key), numpy_stream(*key)
        for _ in range(number % 4):  # an odd number of 32-bit draws leaves half a word, gauss() a second number
            assert pair.python.gauss() == python.gauss()
            if number % 5:
                assert pair.numpy.integers(0, 1000, dtype=np.uint32) == own.integers(0, 1000, dtype=np.uint32)
        assert pair.python.getstate() == python.getstate()
        assert str(pair.numpy.bit_generator.state) == str(own.bit_generator.state)
        copy = pickle.loads(pickle.dumps(pair))
        assert copy.numpy.random() == pair.numpy.random() == own.random()
        assert copy.python.random() == pair.python.random() == python.random()

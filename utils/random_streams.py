"""Randomness as a function: each draw comes from a counter-based generator keyed by what it is for.

Nothing here keeps a state: a stream is the same for any number of workers, and a resumed run needs no saved generator.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np


def _key(seed: int, purpose: str, numbers: tuple[int, ...]) -> int:
    """A 128-bit key: equal for equal arguments, unrelated for any others."""
    text = f"{seed}/{purpose}/{'/'.join(map(str, numbers))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def numpy_stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for (seed, purpose, numbers), such as (42, "augmentation", epoch, index)."""
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, numbers)))


def python_stream(seed: int, purpose: str, *numbers: int) -> random.Random:
    """As `numpy_stream`, for code that wants Python's generator."""
    return random.Random(_key(seed, purpose, numbers))


class StreamPair:
    """`numpy_stream` and `python_stream` of one key after another, in two objects that are kept, which saves time.

    `set_key` leaves no trace of the key before. The generator of numpy is only set where it is asked for."""

    def __init__(self) -> None:
        self.python = random.Random(0)
        self._generator = np.random.Generator(np.random.Philox(key=0))
        self._first_state: Any = self._generator.bit_generator.state
        self._key = 0
        self._is_set = False

    def set_key(self, seed: int, purpose: str, *numbers: int) -> None:
        """From now on both are what `numpy_stream` and `python_stream` give for these arguments."""
        self._key = _key(seed, purpose, numbers)
        self.python.seed(self._key)
        self._is_set = False

    @property
    def numpy(self) -> np.random.Generator:
        """The generator of numpy, as far as it was drawn from since `set_key`."""
        if not self._is_set:
            self._first_state["state"]["key"][:] = self._key & 2**64 - 1, self._key >> 64
            self._generator.bit_generator.state = self._first_state
            self._is_set = True
        return self._generator


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for `torch.manual_seed`."""
    return _key(seed, purpose, numbers) >> 65


_HALF = np.uint64(32)
_LOW_HALF = np.uint64(2**32 - 1)
_PHILOX_FACTORS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64).reshape(2, 1, 1)
_FACTORS_HIGH, _FACTORS_LOW = _PHILOX_FACTORS >> _HALF, _PHILOX_FACTORS & _LOW_HALF
_PHILOX_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64).reshape(2, 1, 1)


def uniform_rows(
    seed: int, purpose: str, epoch: int, indices: np.ndarray, repeats: np.ndarray, num_columns: int
) -> np.ndarray:
    """(B, num_columns) float64 in [0, 1): a row for each (seed, purpose, epoch, index, repeat), whatever others are.

    indices, repeats: (B,) whole numbers, 0 or more. A row is what
    `Generator(Philox(key, counter=(0, index, repeat, 0))).random(num_columns)` gives with the key of (seed, purpose,
    epoch): Philox4x64-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), for all rows at once."""
    num_blocks = -(-num_columns // 4)
    shape = (len(indices), num_blocks)
    # Words 0 and 2 of the counter are multiplied, 1 and 3 are not: each pair is one array (2, B, blocks).
    multiplied, others = np.zeros((2, *shape), np.uint64), np.zeros((2, *shape), np.uint64)
    multiplied[0] = np.arange(1, num_blocks + 1, dtype=np.uint64)  # numpy counts one on before its first block, too
    multiplied[1] = np.asarray(repeats, np.uint64)[:, None]
    others[0] = np.asarray(indices, np.uint64)[:, None]
    number = _key(seed, purpose, (epoch,))
    key = np.array([number & 2**64 - 1, number >> 64], np.uint64).reshape(2, 1, 1)
    for _ in range(10):
        high, low = _products(multiplied)
        multiplied = high[::-1] ^ others ^ key
        others = low[::-1]
        key = key + _PHILOX_STEPS
    words = np.stack([multiplied[0], others[0], multiplied[1], others[1]], axis=-1).reshape(shape[0], -1)
    return (words[:, :num_columns] >> np.uint64(11)) * 2.0**-53


def _products(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The high and low 64 bits of words (2, B, blocks) times Philox's two factors, by halves of 32 bits."""
    high, low = words >> _HALF, words & _LOW_HALF
    first = high * _FACTORS_LOW + (low * _FACTORS_LOW >> _HALF)
    second = low * _FACTORS_HIGH + (first & _LOW_HALF)
    return high * _FACTORS_HIGH + (first >> _HALF) + (second >> _HALF), words * _PHILOX_FACTORS

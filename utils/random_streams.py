"""Randomness as a function: each draw comes from a counter-based generator keyed by its purpose.

A stream is the same for any number of workers, and a resumed run needs no saved generator.
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
    """As `numpy_stream`, for code that takes Python's generator."""
    return random.Random(_key(seed, purpose, numbers))


class StreamPair:
    """`numpy_stream` and `python_stream` of one key after another, in two objects that are reused, which saves time.

    The generator of numpy is set where it is used, and only there."""

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
        """The generator of numpy, with the draws made since `set_key`."""
        if not self._is_set:
            self._first_state["state"]["key"][:] = self._key & 2**64 - 1, self._key >> 64
            self._generator.bit_generator.state = self._first_state
            self._is_set = True
        return self._generator


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for `torch.manual_seed`."""
    return _key(seed, purpose, numbers) >> 65

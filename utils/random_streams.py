"""Randomness as a function: each draw comes from a counter-based generator keyed by what it is for.

Nothing here keeps a state: a stream is the same for any number of workers, and a resumed run needs no saved generator.
"""

from __future__ import annotations

import hashlib
import random

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


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for `torch.manual_seed`."""
    return _key(seed, purpose, numbers) >> 65

"""How fast batches come: epochs that are drained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from base.batch import Batch
from benchmarks.speed.measuring import Contender, one_thread

Epoch = Callable[[], Iterable[Any]]
"""Begins an epoch and gives its batches, ours or a peer's."""


def images_of(batch: Any) -> Tensor:
    """(B, ...): of ours, or of a peer's (images, labels)."""
    return batch.images if isinstance(batch, Batch) else batch[0]


def epochs_of(loader: Any) -> Epoch:
    """Our loader's training epochs, each another one."""
    number = 0

    def begin() -> Iterable[Any]:
        nonlocal number
        number += 1
        return loader.train_batches(number)

    return begin


def drained(begin: Epoch) -> Contender:
    """Measures images/s of an epoch, from the call that begins it to the last batch, with one thread in this process.

    A GPU is waited for before the clock stops."""

    def measure() -> float:
        count = 0
        with one_thread():
            started = time.perf_counter()
            for batch in begin():
                count += len(images_of(batch))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return count / (time.perf_counter() - started)

    return measure

"""How fast batches come: epochs that are drained, and the reading of every byte of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from base.batch import Batch
from benchmarks.measuring import Contender, one_thread

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


def drained(begin: Epoch, repeats: int = 1, each: Callable[[Tensor], object] | None = None) -> Contender:
    """Measures images/s over `repeats` epochs, from the call that begins the first to the last batch. One thread in
    this process: what works in it has one core, as a worker has.

    each: done to the images of each batch, within the time. A GPU is waited for before the clock stops."""

    def measure() -> float:
        count = 0
        with one_thread():
            started = time.perf_counter()
            for _ in range(repeats):
                for batch in begin():
                    images = images_of(batch)
                    count += len(images)
                    if each is not None:
                        each(images)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return count / (time.perf_counter() - started)

    return measure


def read_every_byte(images: Tensor) -> int:
    """The sum of all bytes, eight at a time, as they lie in memory: a batch that is only promised has to be made.

    images: (B, C, H, W), of whole eights of bytes."""
    if images.is_contiguous(memory_format=torch.channels_last):
        images = images.permute(0, 2, 3, 1)
    return int(images.reshape(-1).view(torch.int64).sum())

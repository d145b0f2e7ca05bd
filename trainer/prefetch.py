"""From the loader's memory to the device's: the next batch is copied while the one before it is computed with."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import lru_cache

import torch
from torch import Tensor

from base.batch import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Generator[Batch]:
    """The batches, in order, with all their tensors on `device`; what is there already is not copied.

    On a GPU one batch more than was asked for is taken from `batches` and copied on a stream of its own. Its memory on
    the host is free for other things as soon as `batches` is asked for the next.
    """
    return _one_ahead(batches, device) if device.type == "cuda" else (batch.to(device) for batch in batches)


def _one_ahead(batches: Iterable[Batch], device: torch.device) -> Generator[Batch]:
    copying = _copying_stream(device)
    ahead: Batch | None = None
    for batch in batches:
        # What is on the device already was made on the stream that computes, and stays there.
        moved = _pinned(batch)
        with torch.cuda.stream(copying):
            copy = moved.to(device)
            copied = copying.record_event()
        if ahead is not None:
            yield ahead  # its computation is queued while `batch` is copied
        copied.synchronize()  # with the copy only, which is long done: `batch` and `moved` may go now
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for before, after in zip(moved.tensors(), copy.tensors(), strict=True):
            if after is not before:
                after.record_stream(computing)  # its memory belongs to the stream that it was copied on
        ahead = copy
    if ahead is not None:
        yield ahead


@lru_cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: torch keeps freed memory for the stream that it was allocated on."""
    return torch.cuda.Stream(device)


def _pinned(batch: Batch) -> Batch:
    """The batch with what is on the host in pinned memory, from which copies do not wait."""
    return batch.mapped(lambda tensor: tensor if _is_ready(tensor) else tensor.pin_memory())


def _is_ready(tensor: Tensor) -> bool:
    return tensor.is_cuda or tensor.is_pinned()

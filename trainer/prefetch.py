"""Batches on their way to the device: the next one is copied while the one before it is computed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import lru_cache

import torch

from base.batch import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Generator[Batch]:
    """The batches, in order, with all their tensors on `device`; what is on it is not copied.

    On a GPU, each is taken from `batches` and copied, on a stream of its own, while the one before it is computed. Its
    memory on the host may be reused as soon as `batches` is asked for the next.
    """
    return _one_ahead(batches, device) if device.type == "cuda" else (batch.to(device) for batch in batches)


def _one_ahead(batches: Iterable[Batch], device: torch.device) -> Generator[Batch]:
    copying = _copying_stream(device)
    ahead: Batch | None = None
    for batch in batches:
        # Copies from pinned memory do not wait. What is on the device already stays there.
        pinned = batch.mapped(lambda each: each if each.is_cuda or each.is_pinned() else each.pin_memory())
        with torch.cuda.stream(copying):
            copy = pinned.to(device)
            copied = copying.record_event()
        if ahead is not None:
            yield ahead  # its computation is queued while `batch` is copied
        copied.synchronize()  # with the copy only, which is long done: `batch` and `pinned` may go now
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for before, after in zip(pinned.tensors(), copy.tensors(), strict=True):
            if after is not before:
                after.record_stream(computing)  # its memory belongs to the stream that it was copied on
        ahead = copy
    if ahead is not None:
        yield ahead


@lru_cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: torch keeps freed memory for the stream that it was allocated on."""
    return torch.cuda.Stream(device)

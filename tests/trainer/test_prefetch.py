"""Batches on their way to the device: what is copied when, what must have happened before, and that nothing is lost."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from base.batch import Batch
from base.mixing import Mix
from tests.trainer.conftest import CPU, MemoryLoader
from trainer import prefetch
from trainer.prefetch import on_device


@pytest.fixture(autouse=True)
def _no_stream_of_another_test() -> Iterator[None]:
    prefetch._copying_stream.cache_clear()
    yield
    prefetch._copying_stream.cache_clear()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def mixed_batches(count: int = 4) -> Iterator[Batch]:
    for batch in itertools.islice(MemoryLoader().train_batches(1), count):
        batch.mix = Mix(torch.tensor([3, 2, 1, 0]), 0.4)
        yield batch


def assert_same(found: Batch, expected: Batch) -> None:
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one.cpu(), other)
    assert found.targets.keys() == expected.targets.keys()
    assert found.scoring_targets.keys() == expected.scoring_targets.keys()
    assert found.mix is not None
    assert expected.mix is not None
    assert (found.mix.lam, found.mix.box) == (expected.mix.lam, expected.mix.box)


def test_on_the_cpu_they_are_passed_on() -> None:
    taken: list[Batch] = []

    def source() -> Iterator[Batch]:
        for batch in mixed_batches():
            taken.append(batch)
            yield batch

    for number, batch in enumerate(on_device(source(), CPU), start=1):
        assert len(taken) == number  # none ahead
        for one, other in zip(batch.tensors(), taken[-1].tensors(), strict=True):
            assert one is other


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces CUDA's streams and events; returns the list in which their use is recorded."""
    log: list[str] = []
    copies, pinned, entered = itertools.count(1), [], []

    class Event:
        def __init__(self) -> None:
            self.number = next(copies)
            log.append(f"copy {self.number} begins")

        def synchronize(self) -> None:
            log.append(f"copy {self.number} is done")

    class Stream:
        def __init__(self, *_: Any) -> None: ...

        def record_event(self) -> Event:
            return Event()

        def wait_event(self, event: Event) -> None:
            log.append(f"computing waits for copy {event.number}")

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        entered.append(stream)
        yield
        entered.pop()

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    def copy_batch(batch: Batch, _device: torch.device) -> Batch:
        assert entered
        assert all(any(tensor is each for each in pinned) for tensor in batch.tensors())
        return batch.mapped(torch.Tensor.clone)

    computing = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: computing)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: log.append(f"recorded {stream is computing}"))
    monkeypatch.setattr(Batch, "to", copy_batch)
    return log


def test_the_next_is_copied_while_one_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And before the loader is asked for another, which may be in the same memory."""
    expected = [copy.deepcopy(batch) for batch in mixed_batches(2)]
    log = fake_cuda(monkeypatch)

    def source() -> Iterator[Batch]:
        for number in (1, 2):
            log.append(f"batch {number} is asked for")
            yield expected[number - 1].mapped(lambda tensor: tensor)
        log.append("there is no more")

    found = []
    for number, batch in enumerate(on_device(source(), torch.device("cuda")), start=1):
        log.append(f"batch {number} is computed")
        found.append(batch)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    recorded = ["recorded True"] * len(expected[0].tensors())
    ready = [[f"copy {number} is done", f"computing waits for copy {number}", *recorded] for number in (1, 2)]
    assert log == [
        "batch 1 is asked for", "copy 1 begins", *ready[0],
        "batch 2 is asked for", "copy 2 begins", "batch 1 is computed", *ready[1],
        "there is no more", "batch 2 is computed",
    ]  # fmt: skip


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_they_arrive_whole_while_others_are_computed() -> None:
    device = torch.device("cuda")
    memory = [tensor.pin_memory() for tensor in next(mixed_batches()).tensors()]

    def source() -> Iterator[Batch]:
        """In the same memory again and again."""
        for batch in mixed_batches(5):
            for pinned, tensor in zip(memory, batch.tensors(), strict=True):
                pinned.copy_(tensor)
            tensors = iter(memory)
            yield batch.mapped(lambda _, tensors=tensors: next(tensors))  # type: ignore[misc]

    slow = torch.randn(3000, 3000, device=device)
    kept = []
    for batch in on_device(source(), device):
        slow = slow @ slow
        kept.append(batch.mapped(torch.clone))
        del batch
    for found, expected in zip(kept, mixed_batches(5), strict=True):
        assert_same(found, expected)


@pytest.mark.gpu
@needs_gpu
def test_what_is_on_the_device_already_is_not_copied() -> None:
    device = torch.device("cuda")
    there = [batch.to(device) for batch in mixed_batches()]
    for found, expected in zip(on_device(iter(there), device), there, strict=True):
        for one, other in zip(found.tensors(), expected.tensors(), strict=True):
            assert one.data_ptr() == other.data_ptr()


@pytest.mark.gpu
@needs_gpu
def test_further_epochs_reserve_no_further_memory() -> None:
    device = torch.device("cuda")
    large = next(mixed_batches()).mapped(lambda tensor: tensor.new_zeros(8 << 20))
    reserved = []
    for _ in range(5):
        for batch in on_device([large] * 4, device):
            del batch
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[1]

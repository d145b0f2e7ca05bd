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


class Log(list[str]):
    """Replaces CUDA's streams and events, and writes down how they are used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        log = self
        self.copying = False
        self.copies = 0
        self.streams = 0

        class Event:
            def __init__(self, number: int) -> None:
                self.number = number

            def synchronize(self) -> None:
                log.append(f"copy {self.number} is done")

        class Stream:
            def __init__(self, *_: Any) -> None:
                log.streams += 1

            def record_event(self) -> Event:
                assert log.copying
                log.copies += 1
                log.append(f"copy {log.copies} begins")
                return Event(log.copies)

            def wait_event(self, event: Event) -> None:
                log.append(f"computing waits for copy {event.number}")

        computing = Stream()

        @contextmanager
        def on_stream(_stream: Stream) -> Iterator[None]:
            log.copying = True
            yield
            log.copying = False

        def copied(batch: Batch, _device: torch.device) -> Batch:
            assert log.copying
            assert all(getattr(tensor, "pinned", False) for tensor in batch.tensors())
            return batch.mapped(torch.Tensor.clone)

        def pinned(tensor: Tensor) -> Tensor:
            assert not log.copying
            twin = tensor.clone()
            twin.pinned = True  # type: ignore[attr-defined]
            return twin

        def recorded(_tensor: Tensor, stream: Stream) -> None:
            assert stream is computing
            log.append("recorded")

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", on_stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: computing)
        monkeypatch.setattr(Tensor, "pin_memory", pinned)
        monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: getattr(tensor, "pinned", False))
        monkeypatch.setattr(Tensor, "record_stream", recorded)
        monkeypatch.setattr(Batch, "to", copied)


def test_the_next_is_copied_while_one_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And before the loader is asked for another, which may be in the same memory."""
    expected = [copy.deepcopy(batch) for batch in mixed_batches(2)]
    log = Log(monkeypatch)

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
    recorded = ["recorded"] * len(expected[0].tensors())
    ready = [[f"copy {number} is done", f"computing waits for copy {number}", *recorded] for number in (1, 2)]
    assert list(log) == [
        "batch 1 is asked for", "copy 1 begins", *ready[0],
        "batch 2 is asked for", "copy 2 begins", "batch 1 is computed", *ready[1],
        "there is no more", "batch 2 is computed",
    ]  # fmt: skip


def test_all_epochs_and_validations_copy_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps memory that was freed for the stream that it was allocated on."""
    log = Log(monkeypatch)
    before = log.streams  # what computes
    for _ in range(3):
        assert len(list(on_device(mixed_batches(2), torch.device("cuda", 0)))) == 2
    assert log.streams == before + 1


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

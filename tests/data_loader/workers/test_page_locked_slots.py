"""Slots that CUDA has locked: which memory, when, for how long, and what happens where it refuses."""

from __future__ import annotations

import ctypes
import gc
import mmap
import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from data_loader.records import Record
from data_loader.workers.shared_slots import SharedSlots
from tests.data_loader.label_tables import small_loader

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Cudart:
    """Stands for the CUDA runtime, and writes down what is locked."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.locked: dict[int, int] = {}
        self.calls: list[str] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802, ARG002
        assert address % mmap.PAGESIZE == 0
        assert size % mmap.PAGESIZE == 0
        for begin, length in self.locked.items():
            assert address + size <= begin or begin + length <= address, "locked twice"
        self.calls.append("lock")
        if len(self.locked) == self.allowed:
            return 712
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        ctypes.string_at(address, self.locked.pop(address))  # it would crash if the memory were gone
        self.calls.append("unlock")
        return 0


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Cudart:
    standing = Cudart(getattr(request, "param", 1000))
    monkeypatch.setattr(torch.cuda, "cudart", lambda: standing)
    return standing


def received(slots: SharedSlots, number_of_bytes: int) -> np.ndarray:
    (array,) = slots.received(slots.take(), [(number_of_bytes,)])
    return array


def test_a_slot_is_locked_when_it_is_first_used_and_until_nobody_can_look_at_it(cudart: Cudart) -> None:
    slots = SharedSlots(1, 4, mmap.PAGESIZE + 1, page_locked=True)
    assert cudart.calls == []
    first, second = received(slots, 10), received(slots, mmap.PAGESIZE + 1)
    assert cudart.locked == {first.ctypes.data: 2 * mmap.PAGESIZE, second.ctypes.data: 2 * mmap.PAGESIZE}
    del second
    for _ in range(10):
        received(slots, 10)[:] = 1
    assert len(cudart.locked) == 2  # used again, and locked still
    del slots
    gc.collect()
    assert "unlock" not in cudart.calls  # `first` lies there
    first[:] = 7
    del first
    gc.collect()
    assert cudart.locked == {}
    assert cudart.calls == ["lock", "lock", "unlock", "unlock"]


@pytest.mark.parametrize("cudart", [0, 1], indirect=True)
def test_where_cuda_refuses_the_slots_are_ordinary_memory(cudart: Cudart, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []

    def ones(*_: int, device: str) -> None:
        devices.append(device)
        raise RuntimeError("CUDA error: part or all of the requested memory range is already mapped")

    monkeypatch.setattr(torch, "ones", ones)
    slots = SharedSlots(1, 4, 100, page_locked=True)
    kept = [received(slots, 100) for _ in range(4)]
    for number, array in enumerate(kept):
        array[:] = number
    assert [array.tolist() for array in kept] == [[number] * 100 for number in range(4)]
    assert cudart.calls == ["lock"] * (cudart.allowed + 1)  # and it is not asked again
    assert devices == ["cuda"]  # what CUDA had to say was heard here
    del slots, kept, array
    gc.collect()
    assert cudart.locked == {}


def test_a_child_leaves_locked_what_it_forgets(cudart: Cudart) -> None:
    slots = [SharedSlots(1, 1, 100, page_locked=True)]
    array = [received(slots[0], 100)]

    def forget() -> None:
        slots.clear()
        array.clear()
        gc.collect()
        raise SystemExit(cudart.calls.count("unlock"))

    child = multiprocessing.get_context("fork").Process(target=forget)
    child.start()
    child.join()
    assert child.exitcode == 0
    forget_here = pytest.raises(SystemExit)
    with forget_here as left:
        forget()
    assert left.value.code == 1  # the same words, in the process that locked it


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loader_locks_its_slots_for_a_gpu_only(
    image_records: list[Record], labels: LabelSpace, cudart: Cudart, device: str
) -> None:
    loader = small_loader(image_records, labels, device=torch.device(device), num_workers=1)
    for batch in loader.train_batches(0):
        assert (batch.images.data_ptr() in cudart.locked) == (device == "cuda")


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_slots_are_pinned_and_a_refusal_breaks_nothing() -> None:
    torch.zeros(1, device="cuda")
    slots = SharedSlots(1, 1, 1 << 20, page_locked=True)
    array = received(slots, 1 << 20)
    array[:] = np.arange(1 << 20) % 251
    tensor = torch.from_numpy(array)
    assert tensor.is_pinned()
    assert torch.equal(tensor.to("cuda", non_blocking=True).cpu(), tensor)
    assert int(torch.cuda.cudart().cudaHostUnregister(array.ctypes.data)) == 0
    slots._memory._locked.clear()
    assert slots._memory.lock_pages(array)
    slots._memory._locked.clear()  # CUDA is asked for what it has, and refuses
    assert not slots._memory.lock_pages(array)
    assert torch.ones(3, device="cuda").sum().item() == 3
    assert int(torch.cuda.cudart().cudaHostUnregister(array.ctypes.data)) == 0

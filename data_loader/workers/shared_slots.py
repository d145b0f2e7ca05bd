"""Memory that workers write batches into and the main process reads."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import sys
import weakref
from collections.abc import Sequence

import numpy as np
import torch

Shape = tuple[int, ...]


class SharedSlots:
    """Slots of memory, shared with the processes that are forked later.

    A slot that was taken goes to a worker, which writes into `arrays`, and comes back by `received`. It is free again
    when nothing refers to the received arrays, nor to tensors made of them, any more.

    in_flight: how many slots are with workers at once, at most
    held: how many more there are for received arrays that are in use; of more, `received` gives copies, so that there
        is always a slot to take
    slot_bytes: of each
    page_locked: received arrays are pinned memory, as long as CUDA agrees; whoever copies from one to a GPU without
        waiting must hold it until the copy is done
    """

    def __init__(self, in_flight: int, held: int, slot_bytes: int, page_locked: bool = False) -> None:
        self._slot_bytes = -(-max(slot_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._held = held
        self._free = list(range(in_flight + held))
        self._in_use: set[int] = set()
        self._in_flight: set[int] = set()
        # Anonymous: neither the size of /dev/shm matters, nor can a kill leave a name behind.
        self._memory = _Memory(-1, len(self._free) * self._slot_bytes)
        self._page_locked = page_locked

    def take(self) -> int:
        """The number of a free slot, the one that was freed last: only as many take up memory as are in use at once."""
        slot = self._free.pop()
        self._in_flight.add(slot)
        return slot

    def arrays(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The slot's memory as uint8 arrays, one behind the other."""
        return self._split(self._whole(slot), shapes)

    def received(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """As `arrays`, in the process that took the slot, which is free again when they are gone."""
        self._in_flight.remove(slot)
        whole = self._whole(slot)
        if len(self._in_use) == self._held:
            self._free.append(slot)
            return self._split(whole.copy(), shapes)
        if self._page_locked:  # at the first use: many slots are never used
            self._page_locked = self._memory.lock_pages(whole)
        self._in_use.add(slot)
        weakref.finalize(whole, self._freed, slot).atexit = False
        return self._split(whole, shapes)

    def _freed(self, slot: int) -> None:
        self._in_use.remove(slot)
        self._free.append(slot)

    def reclaim(self) -> None:
        """Frees all slots that were not received. No worker may still be writing."""
        self._free.extend(self._in_flight)
        self._in_flight.clear()

    def _whole(self, slot: int) -> np.ndarray:
        return np.frombuffer(self._memory, np.uint8, self._slot_bytes, slot * self._slot_bytes)

    @staticmethod
    def _split(whole: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        arrays, begin = [], 0
        for shape in shapes:
            end = begin + math.prod(shape)
            arrays.append(whole[begin:end].reshape(shape))
            begin = end
        return arrays


class _Memory(mmap.mmap):
    """Memory whose parts can be page-locked for CUDA, in this process, until it is unmapped."""

    def __init__(self, *_: int) -> None:  # made by __new__
        self._locked: set[int] = set()
        self._process = os.getpid()

    def lock_pages(self, part: np.ndarray) -> bool:
        """Whether the part, of whole pages, is locked now. Workers that were forked before have the same pages."""
        address = part.ctypes.data
        if address in self._locked:
            return True
        # torch's own name for it, which it uses for shared memory too: torch/cuda/_pin_memory_utils.py
        if int(torch.cuda.cudart().cudaHostRegister(address, part.nbytes, 1)) == 0:
            self._locked.add(address)
            return True
        with contextlib.suppress(RuntimeError):  # CUDA would raise the refusal at the next kernel that is launched
            torch.ones(1, device="cuda")  # zeros need none
        return False

    def __del__(self) -> None:
        # Before mmap returns the memory. A forked child has no CUDA to tell; nor has this process when Python ends.
        if self._locked and os.getpid() == self._process and not sys.is_finalizing():
            for address in self._locked:
                torch.cuda.cudart().cudaHostUnregister(address)

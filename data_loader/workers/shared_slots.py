"""Memory that worker processes write batches into and their parent reads: no pixel crosses a pipe."""

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
    """Slots of `slot_bytes` each, shared with the processes that are forked later.

    A slot goes from `take` to a worker, which writes into `arrays`, and back: the arrays that `received` gives free it
    when nothing refers to them, nor to a tensor made of them, any more.

    away: how many are with workers at once, at most; held: how many more there are for arrays that are in use; beyond
    that `received` gives copies, so that there is always a slot to take. page_locked: what is received is pinned memory
    to CUDA, as long as CUDA agrees. Whoever copies from it to a GPU without waiting must hold the arrays until the copy
    is done."""

    def __init__(self, away: int, held: int, slot_bytes: int, page_locked: bool = False) -> None:
        self._slot_bytes = -(-max(slot_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._held = held
        self._free = list(range(away + held))
        self._in_use: set[int] = set()
        self._away: set[int] = set()
        # Anonymous, so that neither the size of /dev/shm matters nor a name can be left behind by a kill.
        self._memory = _Memory(-1, len(self._free) * self._slot_bytes)
        self._page_locked = page_locked

    def take(self) -> int:
        """A free slot's number. It is the one that was freed last: no more slots are ever touched, and take up memory,
        than are in use at once."""
        slot = self._free.pop()
        self._away.add(slot)
        return slot

    def arrays(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The slot's memory as uint8 arrays, one behind the other."""
        return self._split(self._whole(slot), shapes)

    def received(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """As `arrays`, in the process that took the slot: it is free again when they are gone."""
        self._away.remove(slot)
        whole = self._whole(slot)
        if len(self._in_use) == self._held:
            self._free.append(slot)
            return self._split(whole.copy(), shapes)
        if self._page_locked:  # when it is used first: many never are
            self._page_locked = self._memory.lock_pages(whole)
        self._in_use.add(slot)
        weakref.finalize(whole, self._freed, slot).atexit = False
        return self._split(whole, shapes)

    def _freed(self, slot: int) -> None:
        self._in_use.remove(slot)
        self._free.append(slot)

    def reclaim(self) -> None:
        """Takes back all slots that will not be received; no worker may be writing any more."""
        self._free.extend(self._away)
        self._away.clear()

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
    """Memory of which parts are locked for CUDA, in the process that locks them, until it is unmapped."""

    def __init__(self, *_: int) -> None:  # made by __new__
        self._locked: set[int] = set()
        self._process = os.getpid()

    def lock_pages(self, part: np.ndarray) -> bool:
        """Whether the part, of whole pages, is locked now. A worker that was forked before has the same pages."""
        address = part.ctypes.data
        if address in self._locked:
            return True
        # torch's own name for it, which it uses for shared memory too: torch/cuda/_pin_memory_utils.py
        if int(torch.cuda.cudart().cudaHostRegister(address, part.nbytes, 1)) == 0:
            self._locked.add(address)
            return True
        with contextlib.suppress(RuntimeError):  # CUDA would tell of the refusal at the next kernel that is launched
            torch.ones(1, device="cuda")  # zeros need none
        return False

    def __del__(self) -> None:
        # Before mmap gives the memory back. A child has it too, but no CUDA; at the end of all things neither have we.
        if self._locked and os.getpid() == self._process and not sys.is_finalizing():
            for address in self._locked:
                torch.cuda.cudart().cudaHostUnregister(address)

"""Memory that worker processes write batches into and their parent reads: no pixel crosses a pipe."""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, ...]


class SharedSlots:
    """`count` slots of `slot_bytes` each, shared with the processes that are forked later.

    A slot goes from `take` to a worker, which writes into `arrays`, and back: the arrays that `received` gives free it
    when nothing refers to them, nor to a tensor made of them, any more."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self._slot_bytes = max(slot_bytes, 1)
        # Anonymous, so that neither the size of /dev/shm matters nor a name can be left behind by a kill.
        self._memory = mmap.mmap(-1, count * self._slot_bytes)
        self._free = list(range(count))
        self._away: set[int] = set()  # taken, and not received

    def take(self) -> int | None:
        """A free slot's number; None if there is none. It is the one that was freed last: no more slots are ever
        touched, and take up memory, than are in use at once."""
        try:
            slot = self._free.pop()
        except IndexError:
            return None
        self._away.add(slot)
        return slot

    def arrays(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The slot's memory as uint8 arrays, one behind the other."""
        return self._split(self._whole(slot), shapes)

    def received(self, slot: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """As `arrays`, in the process that took the slot: it is free again when they are gone."""
        self._away.remove(slot)
        whole = self._whole(slot)
        weakref.finalize(whole, self._free.append, slot).atexit = False
        return self._split(whole, shapes)

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

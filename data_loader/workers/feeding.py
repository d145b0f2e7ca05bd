"""Batches of images in the order of a sampler, made in this process or by workers."""

from __future__ import annotations

import logging
import math
import mmap
import multiprocessing.context
import os
import re
import signal
import statistics
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_loader.datasets import BatchImages
from data_loader.records.image_check import number_of_cores
from data_loader.samplers import BatchKeys, EvaluationBatchSampler, TrainingBatchSampler
from data_loader.workers.shared_slots import SharedSlots
from utils import distributed
from utils.allocator import keep_freed_memory, return_freed_memory
from utils.errors import DataError, UserError
from utils.wording import first_line

BATCHES_AHEAD = 2
"""How many batches each worker may be ahead of the model."""

BATCHES_HELD = 4
"""How many received batches may be in use at once; of more, copies are made."""

IMAGES_PER_SECOND = 7500
"""What num_workers "auto" provides for a GPU: half as much again as fast models take."""

WORTH_A_WORKER_SECONDS = 0.0003
"""An image that takes longer to prepare is worth a worker beside a model on the CPU, which takes some milliseconds."""

MEASURED_IMAGES = 32
MEASURED_SECONDS = 0.5
"""How many images num_workers "auto" times, and how long at most."""

logger = logging.getLogger(__name__)

warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, said four times

ArrayBatch = tuple[BatchKeys, list[np.ndarray]]


class BatchFeed:
    """Iterates over the batches of a sampler, in its order: their keys, and their images as arrays (B, h, w, 3) uint8.

    A batch may be kept for any time. Iterating anew begins at the sampler's position, also where an earlier iteration
    was left.

    images: fills the batches
    num_workers: processes to fill them in; 0: this one; "auto": see measured_num_workers
    on_gpu: whether the model is
    page_locked: see SharedSlots
    """

    def __init__(
        self,
        images: BatchImages,
        sampler: TrainingBatchSampler | EvaluationBatchSampler,
        num_workers: int | Literal["auto"],
        on_gpu: bool = False,
        page_locked: bool = False,
    ) -> None:
        if num_workers == "auto":
            num_workers = measured_num_workers(images, on_gpu, distributed.local_world_size())
        self._images, self._sampler = images, sampler
        # A copy is made faster than it is handed over, and a worker without a batch would only cost its start.
        self.num_workers = 0 if images.copies_only else max(0, min(num_workers, len(sampler) - 1))
        self._started = False
        if self.num_workers:
            slot_bytes = sampler.largest_batch * sum(3 * height * width for height, width in images.sizes)
            in_flight = self.num_workers * BATCHES_AHEAD + 1  # the next job is issued before a result is taken
            self._jobs = _JobSampler(sampler, SharedSlots(in_flight, BATCHES_HELD, slot_bytes, page_locked))
            self._workers: DataLoader[Any] = DataLoader(
                _JobDataset(images, self._jobs.slots),
                batch_sampler=self._jobs,  # type: ignore[arg-type] # of jobs, where torch expects lists of indices
                num_workers=self.num_workers,
                prefetch_factor=BATCHES_AHEAD,
                collate_fn=lambda result: result,  # a job is a whole batch
                worker_init_fn=_start_worker,
                persistent_workers=True,
                multiprocessing_context=_Fork(),  # by which the slots and the cached images are shared
                generator=torch.Generator(),  # torch draws seeds for workers, else from the generator of dropout
            )

    def __len__(self) -> int:
        """Batches of this process, in a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[ArrayBatch]:
        """Raises DataError for an image that cannot be used, and for a worker that died."""
        if self.num_workers:
            yield from self._received()
            return
        for keys in self._sampler:
            if (arrays := self._images.contiguous(keys)) is not None:
                yield keys, arrays
                continue
            arrays = [np.empty(shape, np.uint8) for shape in _shapes(self._images, keys)]
            self._images.fill(keys, arrays)
            yield keys, arrays

    def _received(self) -> Iterator[ArrayBatch]:
        try:
            # torch's handler would raise for a dead worker wherever this process is, such as in writing a checkpoint.
            # Without it the death is noticed when a batch is waited for, within seconds.
            handler = signal.getsignal(signal.SIGCHLD)
            if not self._started:
                return_freed_memory()  # the workers are forked now
                self._started = True
            results = iter(self._workers)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)
            for error in results:
                job = self._jobs.issued.popleft()
                if error is not None:
                    raise error
                yield job.keys, self._jobs.slots.received(job.slot, _shapes(self._images, job.keys))
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # torch raises the first for a dead worker; the others come of taking a batch before it has noticed
            if isinstance(error, RuntimeError) and not re.match(r"DataLoader worker \(pid", str(error)):
                raise
            raise DataError(
                f"a loader's worker process died ({first_line(error)}); if memory ran out, take fewer workers "
                f"(num_workers) or smaller batches; if the image cache was changed meanwhile, start again"
            ) from error


def measured_num_workers(images: BatchImages, on_gpu: bool, num_processes: int) -> int:
    """How many workers a process needs, by the median of the time that an image takes here.

    For a GPU: as many as prepare IMAGES_PER_SECOND, or all cores, which `num_processes` share. A model on the CPU has
    work for all cores: one worker prepares the next batch beside it, or none where there is little to prepare."""
    if images.copies_only or len(images) == 0:
        return 0
    median = statistics.median(_seconds_an_image(images))
    if on_gpu:
        cores = max(1, number_of_cores() // num_processes)
        chosen = min(cores, math.ceil(median * IMAGES_PER_SECOND))
    else:
        chosen = int(median > WORTH_A_WORKER_SECONDS)
    logger.info("num_workers: %d, since an image takes %.2f ms to prepare", chosen, median * 1000)
    return chosen


def _seconds_an_image(images: BatchImages) -> list[float]:
    """Of each of a few dozen images, with one thread, as a worker has."""
    seconds: list[float] = []
    began = time.perf_counter()
    number = min(MEASURED_IMAGES, -(-len(images) // 20))  # few of a small set: they are made for nothing
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        for index in np.linspace(0, len(images) - 1, number).astype(np.int64):
            keys = BatchKeys(0, np.array([index]), np.zeros(1, np.int64))
            before = time.perf_counter()
            images.fill(keys, [np.empty(shape, np.uint8) for shape in _shapes(images, keys)])
            seconds.append(time.perf_counter() - before)
            if time.perf_counter() > began + MEASURED_SECONDS:
                break
    finally:
        cv2.setNumThreads(threads)
    return seconds


class _Job(NamedTuple):
    """A batch that a worker is to make, and the slot for it."""

    keys: BatchKeys
    slot: int


class _Fork(multiprocessing.context.ForkContext):
    """With an event of its own for torch, which sets one to end its workers."""

    def Event(self) -> _Flag:  # type: ignore[override] # noqa: N802
        return _Flag()


class _Flag:
    """An event without a lock. That of multiprocessing has one: once a worker is killed that holds it, everybody who
    reads the event waits for ever."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._memory[0] = 1

    def is_set(self) -> bool:
        return self._memory[0] == 1


class _JobSampler(Sampler[_Job]):
    """The sampler's batches with a slot for each, which torch's loader asks for as it hands them to workers."""

    def __init__(self, sampler: Sampler[BatchKeys], slots: SharedSlots) -> None:
        self.sampler, self.slots = sampler, slots
        self.issued: deque[_Job] = deque()  # in the order in which results come

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type] # ours have a length

    def __iter__(self) -> Iterator[_Job]:
        # What an iteration has left that ended early: torch has taken its last results before it asks for new jobs.
        self.issued.clear()
        self.slots.reclaim()
        for keys in self.sampler:
            job = _Job(keys, self.slots.take())
            self.issued.append(job)
            yield job


class _JobDataset(Dataset[Any]):
    """Runs in the workers: does a job, and returns nothing, or the user's error.

    An error that was raised in a worker would come with a traceback."""

    def __init__(self, images: BatchImages, slots: SharedSlots) -> None:
        self.images, self.slots = images, slots

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, job: _Job) -> UserError | None:
        try:
            self.images.fill(job.keys, self.slots.arrays(job.slot, _shapes(self.images, job.keys)))
        except UserError as error:
            return error
        return None


def _shapes(images: BatchImages, keys: BatchKeys) -> list[tuple[int, ...]]:
    return [(len(keys), height, width, 3) for height, width in images.sizes]


def _start_worker(_number: int) -> None:
    """Gives a worker one thread, and leaves signals that reach all processes (Ctrl-C, a scheduler's) to the main one.

    A worker ends with its loader, by a SIGTERM of its parent, as Python sends at its exit, or when the parent is gone,
    which torch's workers look for every few seconds."""
    keep_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for the thread, which learns who sent it
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

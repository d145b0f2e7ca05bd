"""Batches of images, one after the other, made here or by worker processes."""

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
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_loader.batch_samplers import BatchKeys, EvaluationBatchSampler, TrainingBatchSampler
from data_loader.datasets import BatchImages
from data_loader.records.image_check import number_of_cores
from data_loader.workers.shared_slots import SharedSlots
from utils.allocator import keep_freed_memory, return_freed_memory
from utils.errors import DataError, UserError
from utils.wording import first_line

BATCHES_AHEAD = 2
"""Of each worker: how many batches it may be ahead of the model."""

BATCHES_HELD = 4
"""Batches that may be in use while the workers go on, without being copied."""

IMAGES_PER_SECOND = 7500
"""What workers that are counted by measuring can make on a GPU machine: half as much again as fast models take."""

WORTH_A_WORKER_SECONDS = 0.0003
"""Beside a model on the CPU, which takes some milliseconds for an image."""

MEASURED_IMAGES = 32
MEASURED_SECONDS = 0.5
"""How many images are timed, and how long at most."""

logger = logging.getLogger(__name__)

warnings.filterwarnings("ignore", "This DataLoader will create")  # torch's word of more workers than cores, four times

Made = tuple[BatchKeys, list[np.ndarray]]


class BatchFeed:
    """The batches of a sampler, in its order: their keys, and their images as arrays (B, h, w, 3) uint8.

    With workers the images lie in slots that are shared with them; only a slot's number crosses the pipe. Batches may
    be kept as long as anybody likes: of more than a few at once, copies are made.

    page_locked: see SharedSlots."""

    def __init__(
        self,
        images: BatchImages,
        sampler: TrainingBatchSampler | EvaluationBatchSampler,
        num_workers: int,
        page_locked: bool = False,
    ) -> None:
        self._images, self._sampler = images, sampler
        # Copies are faster made than handed over; and a worker without a batch would only cost its start.
        self.num_workers = 0 if images.copies_only else max(0, min(num_workers, len(sampler) - 1))
        self._started = False
        if self.num_workers:
            slot_bytes = sampler.largest_batch * sum(3 * height * width for height, width in images.sizes)
            away = self.num_workers * BATCHES_AHEAD + 1  # the next job is handed out before an answer is taken in
            self._jobs = _Jobs(sampler, SharedSlots(away, BATCHES_HELD, slot_bytes, page_locked))
            self._workers: DataLoader[Any] = DataLoader(
                _Maker(images, self._jobs.slots),
                batch_sampler=self._jobs,  # type: ignore[arg-type] # of jobs, where torch thinks of lists
                num_workers=self.num_workers,
                prefetch_factor=BATCHES_AHEAD,
                collate_fn=_unchanged,
                worker_init_fn=_start_worker,
                persistent_workers=True,
                multiprocessing_context=_Fork(),  # by which the slots and the cached images are shared
                generator=torch.Generator(),  # torch draws seeds for workers, else from the generator of dropout
            )

    def __len__(self) -> int:
        """Batches of this process, in a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Made]:
        """Raises DataError for an image that cannot be used, and for a worker that died."""
        if self.num_workers:
            yield from self._received()
            return
        for keys in self._sampler:
            if (arrays := self._images.contiguous(keys)) is not None:
                yield keys, arrays
                continue
            made = [np.empty(shape, np.uint8) for shape in _shapes(self._images, keys)]
            self._images.fill(keys, made)
            yield keys, made

    def _received(self) -> Iterator[Made]:
        try:
            # torch would have the death of a worker raise in this process wherever it is, in a checkpoint's writing
            # say. Without that it is noticed when a batch is waited for, within seconds.
            handler = signal.getsignal(signal.SIGCHLD)
            if not self._started:
                return_freed_memory()  # the workers are forked now
                self._started = True
            answers = iter(self._workers)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)
            for answer in answers:
                job = self._jobs.issued.popleft()
                if answer is not None:
                    raise answer
                yield job.keys, self._jobs.slots.received(job.slot, _shapes(self._images, job.keys))
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # torch tells of a dead worker by the first; the others come of taking a batch before that is noticed
            if isinstance(error, RuntimeError) and not re.match(r"DataLoader worker \(pid", str(error)):
                raise
            raise DataError(
                f"a loader's worker process died ({first_line(error)}); if memory ran out, take fewer workers "
                f"(num_workers) or smaller batches; if the image cache was changed meanwhile, start again"
            ) from error


def measured_num_workers(images: BatchImages, on_gpu: bool, num_processes: int) -> int:
    """How many workers a process needs, by the time that an image takes here: the median over a few dozen.

    A GPU is fed IMAGES_PER_SECOND, as far as the cores go, which `num_processes` share. A model on the CPU has work for
    all cores: one worker prepares the next batch beside it, and none where there is little to prepare."""
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
    """Of a few dozen images, each, with one thread as a worker has."""
    seconds: list[float] = []
    began = time.perf_counter()
    number = min(MEASURED_IMAGES, -(-len(images) // 20))  # of a small set a few, since they are made for nothing
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
    """What a worker is to make, and where."""

    keys: BatchKeys
    slot: int


class _Fork(multiprocessing.context.ForkContext):
    """With an event of its own for torch, which tells its workers by one that they are to end."""

    def Event(self) -> _Flag:  # type: ignore[override] # noqa: N802
        return _Flag()


class _Flag:
    """An event without a lock. That of multiprocessing has one, and whoever asks it for the event waits for ever once a
    worker was killed that held it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._memory[0] = 1

    def is_set(self) -> bool:
        return self._memory[0] == 1


class _Jobs(Sampler[_Job]):
    """The sampler's batches with a slot for each; torch's loader asks for them as it hands them to workers."""

    def __init__(self, sampler: Sampler[BatchKeys], slots: SharedSlots) -> None:
        self.sampler, self.slots = sampler, slots
        self.issued: deque[_Job] = deque()  # in the order in which the workers' answers come

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type] # ours have a length

    def __iter__(self) -> Iterator[_Job]:
        # Of an iteration that was left early: torch has waited for its last answers before it asks for new jobs.
        self.issued.clear()
        self.slots.reclaim()
        for keys in self.sampler:
            job = _Job(keys, self.slots.take())
            self.issued.append(job)
            yield job


class _Maker(Dataset[Any]):
    """What runs in the workers."""

    def __init__(self, images: BatchImages, slots: SharedSlots) -> None:
        self.images, self.slots = images, slots

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, job: _Job) -> UserError | None:
        """Nothing, where all went well. An error of the user's is returned: raised in a worker, it would come with a
        traceback."""
        try:
            self.images.fill(job.keys, self.slots.arrays(job.slot, _shapes(self.images, job.keys)))
        except UserError as error:
            return error
        return None


def _shapes(images: BatchImages, keys: BatchKeys) -> list[tuple[int, ...]]:
    return [(len(keys), height, width, 3) for height, width in images.sizes]


def _unchanged(batch: Any) -> Any:
    """`_Maker` makes whole batches: there is nothing to collate."""
    return batch


def _start_worker(_number: int) -> None:
    """One thread a worker; signals that reach all processes (Ctrl-C, a scheduler's) are the main process's business.

    A worker ends with its loader; when its parent says so by SIGTERM, as Python does at its exit; or when the parent
    is gone, which torch's workers look for every few seconds."""
    keep_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # left to the thread, which learns who sent it
    threading.Thread(target=_end_when_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

"""Batches of images in the order of a sampler, made in this process or by workers."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import multiprocessing
import multiprocessing.util
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Literal

import cv2
import numpy as np

from data_loader.datasets import PipelineImages
from data_loader.samplers import BatchKeys, EvaluationBatchSampler, TrainingBatchSampler
from data_loader.workers.shared_slots import SharedSlots
from utils import distributed
from utils.allocator import keep_freed_memory, return_freed_memory
from utils.errors import DataError, UserError
from utils.signals import SIGNALS, blocked, unblock
from utils.threads import number_of_cores

BATCHES_AHEAD = 2
"""How many batches each worker may be ahead of the model."""

BATCHES_HELD = 4
"""How many received batches may be in use at once; beyond that, batches are copied."""

IMAGES_PER_SECOND = 7500
"""The rate that num_workers "auto" aims at for a GPU: 1.5 times what fast models consume."""

WORTH_A_WORKER_SECONDS = 0.0003
"""An image that takes longer to prepare is worth a worker beside a model on the CPU, which takes some milliseconds."""

MEASURED_IMAGES = 32
MEASURED_SECONDS = 0.5
"""How many images num_workers "auto" times, and how long at most."""

logger = logging.getLogger(__name__)

_FORK = multiprocessing.get_context("fork")  # by which the slots and the cached images are shared

ArrayBatch = tuple[BatchKeys, list[np.ndarray]]


class BatchFeed:
    """Iterates over the batches of a sampler, in its order: their keys, and their images as arrays (B, h, w, 3) uint8.

    A batch may be kept for any time. A new iteration begins at the sampler's position, also if the earlier one was
    abandoned. Workers start with the first iteration and stay.

    images: fills the batches
    num_workers: processes to fill them in; 0: this one; "auto": see measured_num_workers
    on_gpu: whether the model is
    page_locked: see SharedSlots
    """

    def __init__(
        self,
        images: PipelineImages,
        sampler: TrainingBatchSampler | EvaluationBatchSampler,
        num_workers: int | Literal["auto"],
        on_gpu: bool = False,
        page_locked: bool = False,
    ) -> None:
        if num_workers == "auto":
            num_workers = measured_num_workers(images, on_gpu, distributed.local_world_size())
        self._images, self._sampler = images, sampler
        # Copying is faster than a transfer between processes, and a worker without a batch is only its start-up cost.
        self.num_workers = 0 if images.copies_only else max(0, min(num_workers, len(sampler) - 1))
        self._workers: list[_Worker] = []
        self._jobs: deque[tuple[_Worker, BatchKeys, int]] = deque()  # with the number of the slot, in order
        if self.num_workers:
            slot_bytes = sampler.largest_batch * sum(3 * height * width for height, width in images.sizes)
            in_flight = self.num_workers * BATCHES_AHEAD + 1  # the next job is sent before a result is taken
            self._slots = SharedSlots(in_flight, BATCHES_HELD, slot_bytes, page_locked)

    def __len__(self) -> int:
        """Batches of this process, in a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[ArrayBatch]:
        """Raises DataError for an image that cannot be used, and for a worker that died."""
        if not self.num_workers:
            for keys in self._sampler:
                yield keys, self._made_here(keys)
            return
        for worker, _, _ in self._jobs:  # of an iteration that was left
            worker.result()
        self._jobs.clear()
        self._slots.reclaim()
        for keys, number in zip(self._sampler, itertools.cycle(range(self.num_workers)), strict=False):
            slot, worker = self._slots.take(), self._worker(number)
            worker.send(keys, slot)
            self._jobs.append((worker, keys, slot))
            if len(self._jobs) > self.num_workers * BATCHES_AHEAD:
                yield self._next_result()
        while self._jobs:
            yield self._next_result()

    def _made_here(self, keys: BatchKeys) -> list[np.ndarray]:
        arrays = self._images.contiguous(keys)
        if arrays is None:
            arrays = [np.empty(shape, np.uint8) for shape in self._images.shapes(keys)]
            self._images.fill(keys, arrays)
        return arrays

    def _worker(self, number: int) -> _Worker:
        """A worker, which starts with its first job: it is busy while the next one is forked, which takes 20 ms."""
        if not self._workers:
            return_freed_memory()
            multiprocessing.util.Finalize(self, _stop, (self._workers,), exitpriority=1)  # before children are joined
        if number == len(self._workers):
            self._workers.append(_Worker(self._images, self._slots, [each.connection for each in self._workers]))
        return self._workers[number]

    def _next_result(self) -> ArrayBatch:
        worker, keys, slot = self._jobs.popleft()
        error = worker.result()
        if error is not None:
            raise error
        return keys, self._slots.received(slot, self._images.shapes(keys))


class _Worker:
    """A process that fills slots, until it is stopped or this process is gone.

    earlier: this process's ends of the pipes to other workers, which the worker inherits and must not keep open
    """

    def __init__(self, images: PipelineImages, slots: SharedSlots, earlier: Sequence[Connection]) -> None:
        self.connection, other_end = _FORK.Pipe()
        inherited = [*earlier, self.connection]
        self.process = _FORK.Process(target=_work, args=(images, slots, other_end, inherited), daemon=True)
        with blocked():  # until the worker no longer has this process's handlers
            self.process.start()
        other_end.close()

    def send(self, keys: BatchKeys, slot: int) -> None:
        with suppress(OSError):  # of a dead worker, which `result` reports
            self.connection.send((keys, slot))

    def result(self) -> UserError | None:
        """Of the first job that was sent: None, or the error of an image. Raises DataError if the process died."""
        try:
            error: UserError | None = self.connection.recv()
        except (EOFError, OSError) as lost:
            self.process.join(1)
            raise DataError(
                f"a loader's worker process died (exit code {self.process.exitcode}); if memory ran out, take fewer "
                "workers (num_workers) or smaller batches"
            ) from lost
        return error


def _work(images: PipelineImages, slots: SharedSlots, connection: Connection, inherited: Sequence[Connection]) -> None:
    gc.freeze()  # garbage of the fork stays: its destructors may wait for threads that are not here (onnxruntime)
    for each in inherited:
        each.close()
    for number in SIGNALS:  # they reach all processes, and the main one answers them
        signal.signal(number, signal.SIG_IGN)
    unblock()
    keep_freed_memory()
    cv2.setNumThreads(0)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):  # the main process is gone
            return
        if job is None:
            return
        keys, slot = job
        error = None
        try:
            images.fill(keys, slots.arrays(slot, images.shapes(keys)))
        except UserError as caught:
            error = caught
        with suppress(OSError):
            connection.send(error)


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        with suppress(OSError):
            worker.connection.send(None)
        worker.connection.close()


def measured_num_workers(images: PipelineImages, on_gpu: bool, num_processes: int) -> int:
    """How many workers a process needs, by the median of the time that an image takes here.

    For a GPU: as many as prepare IMAGES_PER_SECOND, or all cores, which `num_processes` share. A model on the CPU has
    work for all cores: one worker prepares the next batch beside it, or none where there is little to prepare."""
    if images.copies_only or len(images) == 0:
        return 0
    seconds: list[float] = []
    number = min(MEASURED_IMAGES, -(-len(images) // 20))  # few of a small set, for the results are discarded
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    for index in np.linspace(0, len(images) - 1, number).astype(np.int64):
        keys = BatchKeys(0, np.array([index]), np.zeros(1, np.int64))
        before = time.perf_counter()
        images.fill(keys, [np.empty(shape, np.uint8) for shape in images.shapes(keys)])
        seconds.append(time.perf_counter() - before)
        if sum(seconds) > MEASURED_SECONDS:
            break
    cv2.setNumThreads(threads)
    median = statistics.median(seconds)
    if on_gpu:
        chosen = min(max(1, number_of_cores() // num_processes), math.ceil(median * IMAGES_PER_SECOND))
    else:
        chosen = int(median > WORTH_A_WORKER_SECONDS)
    logger.info("num_workers: %d, since an image takes %.2f ms to prepare", chosen, median * 1000)
    return chosen

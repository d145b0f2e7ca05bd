"""Batches from workers: whole, in order, in memory that is used again only when nobody looks at it any more."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_loader.datasets import PipelineImages
from data_loader.samplers import BatchKeys, EvaluationBatchSampler, TrainingBatchSampler, every_image_once
from data_loader.workers import feeding
from data_loader.workers.feeding import BatchFeed, measured_num_workers
from utils.errors import DataError


class Numbered(PipelineImages):
    """Two arrays a batch: images full of their number, and of 100 more, of other sizes. Number `bad` cannot be read."""

    def __init__(self, count: int, bad: int = -1, copies_only: bool = False) -> None:
        self.count, self.bad, self.copies_only = count, bad, copies_only
        self.sizes, self.progressive = [(2, 3), (1, 1)], None

    def __len__(self) -> int:
        return self.count

    def contiguous(self, keys: BatchKeys) -> None:  # noqa: ARG002
        return None

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        if self.bad in keys.indices:
            raise DataError("bad.jpg: is damaged")
        for position, index in enumerate(keys.indices):
            out[0][position], out[1][position] = index, index + 100


def _check(keys: BatchKeys, arrays: Sequence[np.ndarray]) -> None:
    first, second = arrays
    assert (first.shape, second.shape) == ((len(keys), 2, 3, 3), (len(keys), 1, 1, 3))
    assert (first == keys.indices[:, None, None, None]).all()
    assert (second == keys.indices[:, None, None, None] + 100).all()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_however_many_are_kept(workers: int) -> None:
    feed = BatchFeed(Numbered(50), EvaluationBatchSampler(50, 3), workers)
    for _ in range(2):
        kept = list(feed)  # 17 batches, more than there are slots
        for keys, arrays in kept:
            _check(keys, arrays)
        assert np.concatenate([keys.indices for keys, _ in kept]).tolist() == list(range(50))
        del kept
        for keys, arrays in feed:  # none is kept
            _check(keys, arrays)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_ends_early_loses_no_slot(workers: int) -> None:
    images = Numbered(60, bad=40)
    sampler = TrainingBatchSampler(every_image_once(60, shuffle=False), 2, seed=0)
    feed = BatchFeed(images, sampler, workers)
    for start in [0, 5, 7] * 5:
        sampler.set_position(1, start)
        keys, arrays = next(iter(feed))
        assert (keys.epoch, keys.indices.tolist()) == (1, [2 * start, 2 * start + 1])
        _check(keys, arrays)
        with pytest.raises(DataError, match=r"bad\.jpg: is damaged"):
            list(feed)
    sampler.set_position(1, 21)
    assert len(list(feed)) == 9


def test_workers_are_counted_by_the_time_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    cost = [0.001]
    images = Numbered(100)

    def fill(keys: BatchKeys, _out: Sequence[np.ndarray]) -> None:
        assert cv2.getNumThreads() == 1  # as in a worker
        clock[0] += cost[0] * len(keys)

    monkeypatch.setattr(images, "fill", fill)
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(feeding, "number_of_cores", lambda: 16)
    assert measured_num_workers(images, on_gpu=True, num_processes=1) == 8  # 7,500 images/s take 7.5 of them
    assert measured_num_workers(images, on_gpu=True, num_processes=4) == 4
    assert measured_num_workers(images, on_gpu=False, num_processes=1) == 1
    cost[0] = 0.0001
    assert measured_num_workers(images, on_gpu=True, num_processes=1) == 1
    assert measured_num_workers(images, on_gpu=False, num_processes=1) == 0
    clock[0], cost[0] = 0.0, 10.0
    measured_num_workers(images, on_gpu=True, num_processes=1)
    assert clock[0] == 10  # one image was enough
    for nothing_to_do in (Numbered(0), Numbered(100, copies_only=True)):
        assert measured_num_workers(nothing_to_do, on_gpu=True, num_processes=1) == 0


class Dying(Numbered):
    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        super().fill(keys, out)
        if 9 in keys.indices and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error() -> None:
    feed = BatchFeed(Dying(40), EvaluationBatchSampler(40, 2), 2)
    for _ in range(2):
        with pytest.raises(DataError, match=r"worker process died \(exit code -9\).*num_workers"):
            list(feed)


def test_workers_end_with_their_feed() -> None:
    before = set(multiprocessing.active_children())
    feeds = [BatchFeed(Numbered(40), EvaluationBatchSampler(40, 2), 2) for _ in range(2)]
    for feed in feeds:
        next(iter(feed))
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 4
    del feed
    feeds.pop(0)  # whose pipes the workers of the other have inherited
    gc.collect()
    for _ in range(300):
        if len(set(multiprocessing.active_children()) - before) == 2:
            break
        time.sleep(0.1)
    assert len(set(multiprocessing.active_children()) - before) == 2
    assert len(list(feeds[0])) == 20


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("killed", [True, False])
def test_workers_end_with_the_main_process(killed: bool) -> None:
    def main(pipe: Connection) -> None:
        feeds = [BatchFeed(Numbered(40), EvaluationBatchSampler(40, 2), 2) for _ in range(2)]
        for feed in feeds:
            next(iter(feed))
        pipe.send([child.pid for child in multiprocessing.active_children()])
        pipe.recv()

    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=main, args=(there,))
    process.start()
    workers = here.recv()
    if killed:
        process.kill()
    else:
        here.send("end while the workers wait")
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    for _ in range(300):
        if not any(map(_is_running, workers)):
            break
        time.sleep(0.1)
    assert [worker for worker in workers if _is_running(worker)] == []
